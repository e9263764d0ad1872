// The history: one button a turn; choosing one goes back to it.
const list = element.querySelector('ol');
function show() {
  const turns = props.value || [];
  list.replaceChildren(...turns.map((turn) => {
    const item = document.createElement('li'), button = document.createElement('button');
    const image = document.createElement('img'), words = document.createElement('span');
    const from = document.createElement('small');
    image.src = turn.image;
    image.alt = '';
    words.textContent = `${turn.number + 1}. ${turn.words}`;
    from.textContent = turn.from;
    button.type = 'button';
    button.append(image, words, from);
    if (turn.current) button.setAttribute('aria-current', 'true');
    button.addEventListener('click', () => trigger('choose', { number: turn.number }));
    item.append(button);
    return item;
  }));
  element.querySelector('p').hidden = turns.length > 0;
  const current = list.querySelector('[aria-current]');
  if (current) list.scrollLeft = current.offsetLeft - list.offsetLeft - 20;
}
watch('value', show);
show();
