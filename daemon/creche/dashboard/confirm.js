// Asks a person before something is done.

const part = (name) => document.getElementById(`ask${name}`);

// `act` gets what was typed in; what it throws is shown, and the question stays.
export function confirm({title, text, yes, no = "Back", ask, secret = false, act}) {
  const dialog = part("");
  part("-title").textContent = title;
  part("-text").textContent = text;
  part("-error").textContent = "";
  part("-label").hidden = !ask;
  part("-label").firstElementChild.textContent = ask ?? "";
  const input = part("-input");
  input.type = secret ? "password" : "text";
  input.value = "";
  const go = part("-yes");
  go.textContent = yes;
  const back = part("-no");
  back.textContent = no;
  back.hidden = !no;
  go.onclick = async () => {
    go.disabled = true;
    try {
      await act(input.value.trim());
      dialog.close();
    } catch (error) {
      part("-error").textContent = error.message;
    }
    go.disabled = false;
  };
  input.onkeydown = (event) => {
    if (event.key === "Enter") go.click();
  };
  back.onclick = () => dialog.close();
  dialog.oncancel = (event) => {
    if (!no) event.preventDefault();
  };
  if (!dialog.open) dialog.showModal();
  (ask ? input : back).focus();
}
