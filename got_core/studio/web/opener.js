// Opens a file: it is read here and sent inside a message, so that the server never stores it as a file.
const input = element.querySelector('input'), zone = element.querySelector('label');
const note = element.querySelector('p');
function open(file) {
  if (!file) return;
  if (file.size > props.longest) {
    note.textContent = `${file.name} is larger than ${(props.longest / 1e6).toFixed(0)} MB`;
    return;
  }
  note.textContent = '';
  const reader = new FileReader();
  reader.addEventListener('load', () => trigger('open_file', { file: reader.result }));
  reader.readAsDataURL(file);
}
input.addEventListener('change', () => {
  open(input.files[0]);
  input.value = '';
});
for (const name of ['dragover', 'dragleave', 'drop']) {
  zone.addEventListener(name, (event) => {
    event.preventDefault();
    zone.classList.toggle('over', name === 'dragover');
    if (name === 'drop') open(event.dataTransfer.files[0]);
  });
}
