// region: why
function whyClosed(event) {
  const status = event.code >= 3400 && event.code < 3600 ? event.code - 3000 : null;
  const hint = /retry in ([0-9.]+) s/.exec(event.reason);
  return { status, seconds: hint === null ? null : Number(hint[1]) };
}

const socket = new WebSocket("wss://tea.example/tables/window", "pachinko.json");
socket.addEventListener("close", (event) => {
  const { status, seconds } = whyClosed(event);
  if (status === 401) location.assign("/login");
  else if (seconds !== null) setTimeout(() => location.reload(), 1000 * seconds);
});
// endregion
