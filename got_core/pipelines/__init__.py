"""What users call: plan, generate, edit, converse, save and open."""
