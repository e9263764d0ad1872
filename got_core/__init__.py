"""The core of the framework: interfaces and what composes them; it knows no implementation."""
