// The reference is complete without this script, which fills in the server's own address and adds buttons that copy.

const setup = document.querySelector("#setup code");
setup.textContent = setup.textContent.replace(/^base=.*/, `base=${location.origin}`);

/** Puts the text on the clipboard; where the browser refuses, as it does on plain http, selects it instead. */
async function copy(line, button) {
  try {
    await navigator.clipboard.writeText(line.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(line);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

for (const line of document.querySelectorAll(".line")) {
  const frame = document.createElement("div");
  frame.className = "copied";
  line.replaceWith(frame);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.title = line.getAttribute("aria-label");
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", () => copy(line, button));
  frame.append(line, button);
}

// On a phone the contents are folded above the text.
const contents = document.querySelector(".contents details");
const isNarrow = matchMedia("(max-width: 56rem)");
const fold = () => (contents.open = !isNarrow.matches);
isNarrow.addEventListener("change", fold);
fold();
