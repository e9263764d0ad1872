// The canvas: an image under boxes that are moved and resized by pointer, touch and keyboard.
// The server holds the plan: changes made here are sent to it as "edit_plan", and its answer is shown.
const SIDE = 1000, LEAST = 20, STEP = 10, PAUSE = 250;
const find = (selector) => element.querySelector(selector);
const layer = find('.boxes'), current = find('.now img'), before = find('.before img');
const object = find('.object input'), send = (message) => trigger('edit_plan', message);
const frame = find('.now .frame'), drawn = find('.drawn'), naming = find('.naming'), choices = find('.choices');
let boxes = [], selected = -1, dragged = null, waiting = null, comparing = false, drawing = null;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const percent = (value) => `${(value / SIDE) * 100}%`;

function place(node, [x1, y1, x2, y2]) {
  Object.assign(node.style, { left: percent(x1), top: percent(y1), width: percent(x2 - x1), height: percent(y2 - y1) });
  node.style.zIndex = 1 + Math.round((SIDE * SIDE - (x2 - x1) * (y2 - y1)) / 1000);
  node.classList.toggle('low', y1 < 70);
}

function description({ phrase, box: [x1, y1, x2, y2], problem }) {
  const percent = (value) => Math.round(value / 10);
  return `${phrase || 'an object'}: ${percent(x1)} % from the left, ${percent(y1)} % from the top, ` +
    `${percent(x2 - x1)} % wide, ${percent(y2 - y1)} % high${problem ? ', has a problem' : ''}. ` +
    'Arrow keys move it, Shift with arrows resizes it, Delete removes it.';
}

function newBox() {
  const node = document.createElement('div');
  node.className = 'box';
  node.tabIndex = 0;
  node.setAttribute('role', 'button');
  node.innerHTML = '<span class="name"></span>' +
    ['nw', 'ne', 'sw', 'se'].map((corner) => `<i class="corner ${corner}" data-corner="${corner}"></i>`).join('');
  return node;
}

function drawBoxes() {
  while (layer.children.length < boxes.length) layer.append(newBox());
  while (layer.children.length > boxes.length) layer.lastChild.remove();
  boxes.forEach((each, index) => {
    const node = layer.children[index];
    place(node, each.box);
    node.dataset.region = index;
    node.style.setProperty('--colour', each.colour);
    node.classList.toggle('problem', Boolean(each.problem));
    node.classList.toggle('selected', index === selected);
    node.querySelector('.name').textContent = each.phrase || '?';
    node.setAttribute('aria-label', description(each));
    node.setAttribute('aria-pressed', String(index === selected));
  });
}

function select(index) {
  selected = index;
  const chosen = boxes[index];
  object.value = chosen ? chosen.phrase : '';
  object.setAttribute('aria-label', chosen ? 'Object in the selected box' : 'Object to add');
  find('.object [type=submit]').textContent = chosen ? 'Rename' : 'Add box';
  find('.remove').hidden = !chosen;
  drawBoxes();
}

function moved([x1, y1, x2, y2], dx, dy) {
  const x = clamp(dx, -x1, SIDE - 1 - x2), y = clamp(dy, -y1, SIDE - 1 - y2);
  return [x1 + x, y1 + y, x2 + x, y2 + y];
}

function resized([x1, y1, x2, y2], dx, dy, corner) {
  return [
    corner.includes('w') ? clamp(x1 + dx, 0, x2 - LEAST) : x1,
    corner.includes('n') ? clamp(y1 + dy, 0, y2 - LEAST) : y1,
    corner.includes('e') ? clamp(x2 + dx, x1 + LEAST, SIDE - 1) : x2,
    corner.includes('s') ? clamp(y2 + dy, y1 + LEAST, SIDE - 1) : y2,
  ];
}

layer.addEventListener('pointerdown', (event) => {
  const node = event.target.closest('.box');
  if (!node || event.button) return;
  event.preventDefault();
  node.focus({ preventScroll: true });
  node.setPointerCapture(event.pointerId);
  const index = Number(node.dataset.region);
  select(index);
  dragged = { node, index, from: boxes[index].box, x: event.clientX, y: event.clientY, corner: event.target.dataset.corner };
});

layer.addEventListener('pointermove', (event) => {
  if (!dragged) return;
  const { width, height } = layer.getBoundingClientRect();
  const dx = Math.round(((event.clientX - dragged.x) / width) * SIDE);
  const dy = Math.round(((event.clientY - dragged.y) / height) * SIDE);
  boxes[dragged.index].box = dragged.corner ? resized(dragged.from, dx, dy, dragged.corner) : moved(dragged.from, dx, dy);
  place(dragged.node, boxes[dragged.index].box);
});

function endDrag(event) {
  if (!dragged) return;
  const { index, from } = dragged;
  dragged = null;
  const box = event.type === 'pointercancel' ? from : boxes[index].box;
  boxes[index].box = box;
  drawBoxes();
  if (String(box) !== String(from)) send({ action: 'resize', region: index, box });
}
layer.addEventListener('pointerup', endDrag);
layer.addEventListener('pointercancel', endDrag);
layer.addEventListener('focusin', (event) => select(Number(event.target.dataset.region)));

const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
layer.addEventListener('keydown', (event) => {
  const index = Number(event.target.dataset.region), arrow = ARROWS[event.key];
  if (event.key === 'Escape') select(-1);
  if (event.key === 'Delete' || event.key === 'Backspace') {
    event.preventDefault();
    send({ action: 'remove', region: index });
    select(-1);
  }
  if (!arrow) return;
  event.preventDefault();
  const box = boxes[index].box;
  boxes[index].box = event.shiftKey ? resized(box, ...arrow, 'se') : moved(box, ...arrow);
  drawBoxes();
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    waiting = null;
    send({ action: 'resize', region: index, box: boxes[index].box });
  }, PAUSE);
});

// A new box is drawn by dragging where no box is; its name is typed beside it. Escape cancels both.
function at(event) {
  const { left, top, width, height } = layer.getBoundingClientRect();
  const side = (position, length) => clamp(Math.round((position / length) * SIDE), 0, SIDE - 1);
  return [side(event.clientX - left, width), side(event.clientY - top, height)];
}

function endDrawing() {
  drawing = null;
  drawn.hidden = naming.hidden = true;
  naming.reset();
}

function drawnBox(event) {
  const [x, y] = at(event), [u, v] = drawing.from;
  return [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
}

frame.addEventListener('pointerdown', (event) => {
  if (event.target.closest('.box, .naming')) return;
  select(-1);
  endDrawing();
  if (event.button || !event.isPrimary || layer.hidden || comparing || props.value.busy) return;
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  drawing = { from: at(event), box: null };
});

frame.addEventListener('pointermove', (event) => {
  if (!drawing || drawing.box) return;
  place(drawn, drawnBox(event));
  drawn.hidden = false;
});

frame.addEventListener('pointerup', (event) => {
  if (!drawing || drawing.box) return;
  const box = drawnBox(event), [x1, y1, x2, y2] = box;
  if (x2 - x1 < LEAST || y2 - y1 < LEAST) return endDrawing();
  drawing.box = box;
  naming.hidden = false;
  naming.style.left = `min(${percent(x1)}, 100% - ${naming.offsetWidth}px)`;
  naming.style.top = `min(${percent(y2)}, 100% - ${naming.offsetHeight}px)`;
  naming.querySelector('input').focus({ preventScroll: true });
});

frame.addEventListener('pointercancel', () => drawing && !drawing.box && endDrawing());
document.addEventListener('keydown', (event) => event.key === 'Escape' && drawing && endDrawing());
naming.addEventListener('submit', (event) => {
  event.preventDefault();
  const phrase = naming.querySelector('input').value.trim();
  if (phrase) send({ action: 'add', phrase, box: drawing.box });
  endDrawing();
});

find('.object').addEventListener('submit', (event) => {
  event.preventDefault();
  const phrase = object.value.trim();
  if (!phrase) return object.focus();
  send(selected < 0 ? { action: 'add', phrase } : { action: 'replace', region: selected, phrase });
  if (selected < 0) object.value = '';
});
find('.remove').addEventListener('click', () => {
  send({ action: 'remove', region: selected });
  select(-1);
});

function toggle(button, on) {
  button.setAttribute('aria-pressed', String(on));
  return on;
}
find('.toggle-boxes').addEventListener('click', (event) => {
  layer.hidden = !toggle(event.currentTarget, layer.hidden);
});
find('.toggle-compare').addEventListener('click', (event) => {
  comparing = toggle(event.currentTarget, !comparing);
  show();
});

function put(image, source, words) {
  image.hidden = !source;
  image.alt = words;
  if (source && image.getAttribute('src') !== source) image.src = source;
}
for (const image of [current, before]) {
  image.addEventListener('load', () => image.classList.toggle('coarse', image.naturalWidth < 256));
}

function showChoices(turns) {
  choices.hidden = !turns.length;
  choices.replaceChildren(...turns.map((turn) => {
    const button = document.createElement('button'), image = document.createElement('img');
    image.src = turn.image;
    image.alt = '';
    button.type = 'button';
    button.append(image, `Seed ${turn.seed}`);
    button.setAttribute('aria-pressed', String(turn.current));
    button.addEventListener('click', () => trigger('choose', { number: turn.number }));
    return button;
  }));
}

function show() {
  const value = props.value, compared = comparing && value.before;
  if (value.busy) endDrawing();
  showChoices(value.choices);
  element.classList.toggle('busy', value.busy);
  element.classList.toggle('comparing', Boolean(compared));
  element.style.setProperty('--aspect', value.aspect);
  put(current, value.image, value.words);
  put(before, value.before ? value.before.image : '', value.before ? value.before.words : '');
  find('.before').hidden = !compared;
  find('.before figcaption').textContent = value.before ? value.before.words : '';
  find('.now figcaption').hidden = !compared;
  find('.now figcaption').textContent = value.words;
  find('.toggle-compare').disabled = !value.before;
  find('.empty').hidden = Boolean(value.image || value.boxes.length || value.busy);
  find('.note').textContent = value.note;
  if (dragged || waiting) return;
  boxes = value.boxes.map((each) => ({ ...each, box: [...each.box] }));
  if (selected >= boxes.length) select(-1);
  drawBoxes();
}
watch('value', show);
show();
