// Saves what the server sent as a file; nothing is stored on the server for it.
watch('value', async () => {
  if (!props.value) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await (await fetch(props.value.content)).blob());
  link.download = props.value.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
