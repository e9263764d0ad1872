// Empties the prompt's box once its request is done, unless something else was typed in the meantime.
watch('value', () => {
  const box = document.querySelector('#prompt textarea');
  if (!props.value || !box || box.value.trim() !== props.value.prompt) return;
  box.value = '';
  box.dispatchEvent(new Event('input', { bubbles: true }));
});
