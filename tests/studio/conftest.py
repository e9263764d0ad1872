"""A studio with a small untrained system, and one with a trained model for the browser."""

import pytest
from small_system import stirred_system
from studio_server import CHROMIUM, CHROMIUM_OPTIONS, MODEL, served_studio, trained_model

from got_core.cli.studio import about_bundled
from got_core.pipelines.pipeline import GoTPipeline

SIZE = (32, 32)


@pytest.fixture(scope="session")
def untrained():
    """Generates at once, but nothing meaningful."""
    return GoTPipeline(stirred_system().model, SIZE)


@pytest.fixture(scope="session")
def gradio():
    return pytest.importorskip("gradio", reason="Gradio is not installed")


@pytest.fixture(scope="module")
def served(gradio):
    """A studio whose model generates what is planned."""
    from got_core.studio.settings import Limits

    folder = trained_model()
    if folder is None:
        pytest.skip(f"there is no trained model: name one by {MODEL}")
    with served_studio(GoTPipeline.from_pretrained(folder, "cpu"), Limits(), about=about_bundled()) as studio:
        yield studio


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed and CHROMIUM names none")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, served):
    """Opens the studio as a visitor of its own; errors on a page fail the test."""
    contexts, errors = [], []

    def open_page(width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served.url)
        page.wait_for_selector("#canvas .now .frame")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors
