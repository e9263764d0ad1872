"""The studio as visitors use it, in a real browser and with a trained model."""

import re
from threading import Event

import pytest
from PIL import Image, ImageDraw
from studio_server import batch_of, data_url_of, image_of

from got_core.chain.dialects import from_readable
from got_core.chain.parser import parse
from got_core.detection.scenes import SceneDetector

PROMPT = "a red circle to the left of a blue square"


def request(page, text):
    """Generate or edit, and wait for the turn."""
    before = turns(page)
    page.fill("#prompt textarea", text)
    page.click("#generate")
    settled(page, before + 1)


def write_plan(page, text):
    """Replace the plan's text as a person does who pastes it."""
    page.click("#chain textarea")
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)
    page.locator("#chain textarea").blur()


def generate_plan(page):
    before = turns(page)
    page.click("#generate-plan")
    settled(page, before + 1)


def settled(page, count):
    page.wait_for_function(f"document.querySelectorAll('#history li').length === {count}")
    page.wait_for_selector("#generate:not([disabled])")
    rendered(page)


def rendered(page):
    """Wait until the browser has shown what it has received: the parts of one answer follow each other."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def eventually(page, condition):
    """Wait until a condition holds, 20 s at most."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(100)
    assert condition()


def turns(page):
    return page.locator("#history li").count()


def chain(page):
    return page.input_value("#chain textarea")


def boxes(page):
    """The boxes of the chain's text."""
    return [region.box for region in parse(from_readable(chain(page))).regions]


def shown_boxes(page):
    """The boxes that the canvas shows, in thousandths."""
    styles = page.eval_on_selector_all(
        "#canvas .box", "nodes => nodes.map(({style: s}) => [s.left, s.top, s.width, s.height].map(parseFloat))"
    )
    return [tuple(round(10 * edge) for edge in (x, y, x + w, y + h)) for x, y, w, h in styles]


def image(page):
    return image_of(page.get_attribute("#canvas .now img", "src"))


def detected(page, colour):
    """The box of the object of a colour in the image, by the scenes' detector."""
    objects = SceneDetector()(batch_of(image(page)))[0]
    return next(each.box for each in objects if each.colour == colour)


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)) - common)


def box_node(page, words):
    return page.locator("#canvas .box", has_text=words)


def drag(page, node, dx, dy, corner=None):
    """Drag a box, or its corner, by thousandths of the canvas."""
    frame, box = page.locator("#canvas .now .frame").bounding_box(), node.bounding_box()
    x = box["x"] + box["width"] * (0.98 if corner else 0.5)
    y = box["y"] + box["height"] * (0.98 if corner else 0.5)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx * frame["width"] / 2000, y + dy * frame["height"] / 2000)
    page.mouse.move(x + dx * frame["width"] / 1000, y + dy * frame["height"] / 1000)
    page.mouse.up()


def expect_boxes(page, expected):
    """Wait until text and canvas agree on boxes, to the thousandth that a drag may be off."""
    eventually(page, lambda: all(_near(each, expected) for each in (boxes(page), shown_boxes(page))))


def undo(page):
    """Undo a change of the plan's boxes, and wait for it."""
    before = boxes(page)
    page.click("#undo")
    eventually(page, lambda: boxes(page) != before)


def _near(some, others):
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(
        abs(a - b) <= 2 for one, two in pairs for a, b in zip(one, two, strict=True)
    )


def test_a_prompt_becomes_a_plan_with_boxes_and_an_image(visit):
    page = visit()
    request(page, PROMPT)
    assert "red circle" in chain(page)
    eventually(page, lambda: shown_boxes(page) == boxes(page) != [])
    assert overlap(detected(page, "red"), boxes(page)[0]) > 0.5
    assert page.locator("#history li button").get_attribute("aria-current") == "true"
    eventually(page, lambda: page.input_value("#prompt textarea") == "")


def test_a_dragged_box_moves_the_object(visit):
    page = visit()
    request(page, PROMPT)
    before, planned = detected(page, "red"), boxes(page)
    x1, y1, x2, y2 = planned[0]
    dy = 999 - y2 if y1 < 300 else -y1
    drag(page, box_node(page, "red circle"), 0, dy)
    target = (x1, y1 + dy, x2, y2 + dy)
    expect_boxes(page, [target, *planned[1:]])
    generate_plan(page)
    after = detected(page, "red")
    assert overlap(after, target) > 0.5
    assert overlap(after, target) > overlap(before, target) + 0.3
    assert overlap(detected(page, "blue"), planned[1]) > 0.5


def test_a_dragged_corner_resizes_and_the_keyboard_does_too(visit):
    page = visit()
    write_plan(page, "A plain gray scene with [a red circle](100,100),(400,400) (red).")
    page.wait_for_selector("#canvas .box")
    node = box_node(page, "red circle")
    drag(page, node, 100, 150, corner="se")
    expect_boxes(page, [(100, 100, 500, 550)])
    node.focus()
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    expect_boxes(page, [(110, 110, 500, 560)])
    eventually(page, lambda: "11 % from the left" in node.get_attribute("aria-label"))
    page.keyboard.press("Delete")
    expect_boxes(page, [])
    for _ in range(5):  # Keys that follow each other slowly are changes of their own.
        undo(page)
        if boxes(page) == [(100, 100, 400, 400)]:
            break
    expect_boxes(page, [(100, 100, 400, 400)])


def test_the_keyboard_is_enough_to_generate(visit):
    page = visit()
    page.focus("#prompt textarea")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('button').id") == "generate"
    page.keyboard.press("Enter")
    settled(page, 1)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('box')"):
            break
    else:
        pytest.fail("no box was reached by Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_edited_text_moves_and_adds_boxes(visit):
    page = visit()
    request(page, PROMPT)
    write_plan(page, "A plain gray scene with [a green square](20,20),(330,330) (green).")
    expect_boxes(page, [(20, 20, 330, 330)])
    assert page.locator("#canvas .box .name").inner_text() == "a green square"
    page.fill("#canvas .object input", "a yellow triangle")
    page.keyboard.press("Enter")
    expect_boxes(page, [(20, 20, 330, 330), (350, 350, 650, 650)])
    generate_plan(page)
    assert overlap(detected(page, "green"), (20, 20, 330, 330)) > 0.2


def test_a_plan_with_problems_says_so_and_is_repaired(visit):
    page = visit()
    page.fill("#prompt textarea", PROMPT)
    page.click("#plan-only")
    page.wait_for_selector("#generate-plan:not([disabled])")
    text = (
        "A plain gray scene with [a red circle](500,300),(900,700) (red) and [a blue square](100,300),(460,660) (blue)."
    )
    write_plan(page, text)
    page.wait_for_selector("#problems .notice")
    eventually(page, lambda: page.locator("#canvas .box.problem").count() == 2)
    page.click("#repair")
    page.wait_for_function("!document.querySelector('#problems .notice')")
    page.wait_for_selector("#repair", state="hidden")
    eventually(page, lambda: [left for left, *_ in boxes(page)] == sorted(left for left, *_ in boxes(page)))
    write_plan(page, "A plain gray scene with a red circle.")
    page.wait_for_selector("#problems .notice")
    page.wait_for_selector("#repair", state="hidden")


def test_an_uploaded_image_is_edited(visit):
    page = visit()
    source = Image.new("RGB", (64, 64), "gray")
    ImageDraw.Draw(source).rectangle((8, 8, 36, 36), fill="red")
    upload(page, "mine.png", source)
    settled(page, 1)
    assert image(page).getpixel((10, 10))[0] > 200
    request(page, "change the square to green")
    page.click("#canvas .toggle-compare")
    assert page.locator("#canvas .before img").is_visible()
    assert image_of(page.get_attribute("#canvas .before img", "src")).getpixel((10, 10))[0] > 200


def upload(page, name, source):
    content = data_url_of(source)
    page.set_input_files("#opener input", {"name": name, "mimeType": "image/png", "buffer": _bytes(content)})


def _bytes(data_url):
    import base64

    return base64.b64decode(data_url.partition(";base64,")[2])


def test_a_file_that_is_not_an_image_is_refused_with_the_reason(visit):
    page = visit()
    page.set_input_files("#opener input", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#notice .notice")
    assert "not a readable image" in page.inner_text("#notice")
    page.click("#generate")
    page.wait_for_function("document.querySelector('#notice').innerText.includes('say what to generate')")


def test_three_turns_undo_and_branches(visit):
    page = visit()
    for text in (PROMPT, "change the circle to green", "remove the square"):
        request(page, text)
    third = page.get_attribute("#canvas .now img", "src")
    page.click("#undo")
    page.wait_for_function("document.querySelectorAll('#history [aria-current]')[0].innerText.startsWith('2.')")
    eventually(page, lambda: page.get_attribute("#canvas .now img", "src") != third)
    page.locator("#history button").first.click()
    page.wait_for_function("document.querySelectorAll('#history [aria-current]')[0].innerText.startsWith('1.')")
    request(page, "change the square to yellow")
    assert turns(page) == 4
    assert "continues 1" in page.locator("#history button").last.inner_text()
    page.locator("#history button").nth(2).click()
    page.wait_for_function(f"document.querySelector('#canvas .now img').src === '{third}'")


def test_a_saved_image_loads_again(visit, tmp_path):
    page = visit()
    page.click("text=Settings")
    page.fill("#seed-row input", "7")
    page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    request(page, PROMPT)
    saved = page.get_attribute("#canvas .now img", "src"), chain(page)
    with page.expect_download() as download:
        page.click("#save")
    file = tmp_path / "saved.png"
    download.value.save_as(file)
    page.reload()
    page.wait_for_selector("#canvas .now .frame")
    assert turns(page) == 0
    page.set_input_files("#opener input", file)
    settled(page, 1)
    assert (page.get_attribute("#canvas .now img", "src"), chain(page)) == saved
    page.click("text=Settings")
    page.wait_for_function("document.querySelector('#seed-row input')?.value === '7'")
    generate_plan(page)
    assert page.get_attribute("#canvas .now img", "src") == saved[0]


def test_two_visitors_never_see_each_others_images(visit):
    first, second = visit(), visit()
    first.fill("#prompt textarea", "a red circle")
    second.fill("#prompt textarea", "a blue square")
    first.click("#generate")
    second.click("#generate")
    settled(first, 1)
    settled(second, 1)
    assert "a red circle" in first.inner_text("#history")
    assert "a blue square" in second.inner_text("#history")
    assert detected(first, "red")
    assert detected(second, "blue")
    assert not {"a blue square", "a red circle"} <= {first.inner_text("body"), second.inner_text("body")}
    third = visit()
    assert turns(third) == 0
    assert turns(first) == turns(second) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_dark_and_light(visit, scheme):
    page = visit(width=390, height=844, color_scheme=scheme, has_touch=True)
    request(page, PROMPT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background, text = (
        sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{name}"))[:3]))
        for name in ("backgroundColor", "color")
    )
    assert (background > text) == (scheme == "light")
    small = page.evaluate(
        "[...document.querySelectorAll('#canvas .bar button, #ask button, #plan button, #after button')]"
        ".filter(b => b.offsetHeight && b.offsetHeight < 28).map(b => b.innerText)"
    )
    assert not small


def test_text_of_visitors_is_never_run(visit):
    page = visit()
    evil = '<img src=x onerror="window.ran = 1">${window.ran = 2}{{window}}'
    request(page, evil)
    write_plan(page, f"with [{evil[:20]}](200,300),(500,600) and {evil}")
    page.wait_for_timeout(300)
    assert page.evaluate("window.ran") is None
    assert "onerror" in page.inner_text("#history")


def test_text_typed_while_it_works_stays(visit, served, monkeypatch):
    plan, ready = served.pipeline.model.plan, Event()
    page = visit()
    with monkeypatch.context() as patch:
        patch.setattr(served.pipeline.model, "plan", lambda *some, **others: ready.wait(60) and plan(*some, **others))
        page.fill("#prompt textarea", PROMPT)
        page.click("#generate")
        page.wait_for_selector("#stop", state="visible")
        page.wait_for_selector("#chain textarea[disabled]")
        page.fill("#prompt textarea", "change the circle to green")
        ready.set()
        settled(page, 1)
    page.wait_for_selector("#chain textarea:not([disabled])")
    assert page.input_value("#prompt textarea") == "change the circle to green"
    page.click("#generate")
    settled(page, 2)
    eventually(page, lambda: page.input_value("#prompt textarea") == "")


def test_the_page_says_what_the_model_draws_and_examples_are_clicked(visit):
    page = visit()
    assert "circles, squares and triangles in red" in page.inner_text("#about")
    page.click("#examples button >> nth=0")
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a yellow triangle'")
    page.click("#generate")
    settled(page, 1)
    page.click("text=remove the circle")
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'remove the circle'")


def test_placeholders_look_unlike_text_and_can_be_read(visit):
    page = visit()
    styles = page.eval_on_selector_all(
        "#prompt textarea, #canvas .object input",
        """nodes => nodes.map((node) => {
            const hint = getComputedStyle(node, '::placeholder'), text = getComputedStyle(node);
            return [hint.fontStyle, hint.color, text.fontStyle, text.color, text.backgroundColor];
        })""",
    )
    assert len(styles) == 2
    for hint_style, hint, text_style, text, background in styles:
        assert (hint_style, text_style) == ("italic", "normal")
        assert hint != text
        assert contrast(hint, background) >= 4.5


def contrast(*colours):
    """The contrast of two CSS colours, as in WCAG 2."""
    lights = []
    for colour in colours:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def draw_box(page, x1, y1, x2, y2):
    """Drag from one corner to the other, in thousandths of the canvas."""
    corners = [at(page, *corner) for corner in ((x1, y1), ((x1 + x2) / 2, (y1 + y2) / 2), (x2, y2))]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner)
    page.mouse.up()


def at(page, x, y):
    frame = page.locator("#canvas .boxes").bounding_box()
    return frame["x"] + x * frame["width"] / 1000, frame["y"] + y * frame["height"] / 1000


def test_a_box_is_drawn_where_no_box_is_and_named_in_place(visit):
    page = visit()
    draw_box(page, 700, 800, 300, 400)
    page.wait_for_selector("#canvas .drawn", state="visible")
    page.keyboard.press("Escape")
    page.wait_for_selector("#canvas .drawn", state="hidden")
    assert not page.is_visible("#canvas .naming")
    draw_box(page, 700, 800, 300, 400)
    page.keyboard.type("a red circle")
    page.keyboard.press("Enter")
    expect_boxes(page, [(300, 400, 700, 800)])
    assert page.locator("#canvas .box .name").inner_text() == "a red circle"
    draw_box(page, 10, 10, 12, 300)
    assert not page.is_visible("#canvas .naming")
    draw_box(page, 50, 20, 250, 220)
    page.fill("#canvas .naming input", "a blue square")
    page.click("#canvas .naming button")
    expect_boxes(page, [(300, 400, 700, 800), (50, 20, 250, 220)])
    generate_plan(page)
    assert overlap(detected(page, "red"), (300, 400, 700, 800)) > 0.3


def test_a_box_is_drawn_by_touch(visit):
    page = visit(width=390, height=844, has_touch=True)
    page.locator("#canvas .now .frame").scroll_into_view_if_needed()
    finger = page.context.new_cdp_session(page)
    for kind, corner in (("touchStart", (200, 200)), ("touchMove", (300, 400)), ("touchMove", (600, 700))):
        x, y = at(page, *corner)
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.fill("#canvas .naming input", "a green square")
    page.keyboard.press("Enter")
    expect_boxes(page, [(200, 200, 600, 700)])


def test_images_of_several_seeds_are_chosen_side_by_side(visit):
    page = visit()
    page.click("text=Settings")
    page.fill("#images input[type=number]", "3")
    page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    page.fill("#prompt textarea", PROMPT)
    page.click("#generate")
    settled(page, 3)
    choices = page.locator("#canvas .choices button")
    eventually(page, lambda: choices.all_inner_texts() == ["Seed 0", "Seed 1", "Seed 2"])
    first = page.get_attribute("#canvas .now img", "src")
    choices.nth(2).click()
    page.wait_for_function("document.querySelectorAll('#history button')[2].hasAttribute('aria-current')")
    eventually(page, lambda: choices.nth(2).get_attribute("aria-pressed") == "true")
    eventually(page, lambda: page.get_attribute("#canvas .now img", "src") != first)
    assert "seed 2" in page.locator("#history button").last.inner_text()
