"""A studio with a small stirred system for plumbing, and one with a model that draws for the browser."""

import pytest
from small_system import stirred_system
from studio_server import CHROMIUM, CHROMIUM_OPTIONS, MODEL, drawing_model, served_studio

from got_core.pipelines.pipeline import GoTPipeline

SIZE = (32, 32)


@pytest.fixture(scope="session")
def plumbing():
    """Draws at once, and nothing that means anything."""
    return GoTPipeline(stirred_system().model, SIZE)


@pytest.fixture(scope="session")
def gradio():
    return pytest.importorskip("gradio", reason="Gradio is not installed")


@pytest.fixture(scope="module")
def served(gradio):
    """A studio whose model draws what is planned."""
    from got_core.studio.settings import Limits

    folder = drawing_model()
    if folder is None:
        pytest.skip(f"there is no model that draws: name one by {MODEL}")
    with served_studio(GoTPipeline.from_pretrained(folder, "cpu"), Limits()) as studio:
        yield studio


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: install it, or name it by CHROMIUM")
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
