// What the prediction panel needs a script for: a list of pictures, a file sent in slices, and a
// timeline that follows the video and moves it. Everything else of the panel is ipywidgets.

const SLICE = 1 << 20; // bytes a message: the server takes no more than 10 MiB at once

/** make("p", {class: "note", textContent: "..."}, child, ...) -> element */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "polygon", "line"].includes(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && !svg) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Call `show` now and whenever one of the model's values changes. */
function follow(model, names, show) {
  for (const name of names) model.on(`change:${name}`, show);
  show();
}

// --- choosing ------------------------------------------------------------------------------------

function chooser({ model, el }) {
  const group = `vidlib-${Math.random()}`; // radio buttons of two panels must not join
  const list = make("div", { className: "vidlib-clips" });
  const file = make("input", { type: "file", accept: "video/*,.mkv" });
  const choose = make("fieldset", {}, make("legend", { textContent: "Choose a clip" }), list);
  const limit = `${Math.floor(model.get("limit") / 1e6)} MB`;
  const upload = make("fieldset", {}, make("legend", { textContent: "or upload a video" }),
    make("label", {}, `A file of up to ${limit}: `, file));
  let sending = null;

  follow(model, ["clips"], () => {
    list.replaceChildren(...model.get("clips").map((clip, i) => {
      const radio = make("input", { type: "radio", name: group, value: i });
      radio.addEventListener("change", () => {
        model.set("chosen", i);
        model.save_changes();
      });
      return make("label", { title: clip.label }, radio,
        make("img", { src: clip.picture, alt: "" }), make("span", { textContent: clip.label }));
    }));
  });
  follow(model, ["chosen", "clips"], () => {
    for (const radio of list.querySelectorAll("input"))
      radio.checked = Number(radio.value) === model.get("chosen");
  });
  file.addEventListener("change", () => {
    sending = file.files[0];
    file.value = ""; // else the same file could not be sent again
    if (sending) model.send({ kind: "upload", name: sending.name, size: sending.size });
  });
  model.on("msg:custom", async (message) => {
    if (!sending || message.kind !== "send") return; // the kernel asks for the slice from `at` on
    try {
      const piece = await sending.slice(message.at, message.at + SLICE).arrayBuffer();
      model.send({ kind: "slice", at: message.at }, undefined, [piece]);
    } catch (error) { // moved or changed on the disk meanwhile
      model.send({ kind: "unreadable", why: String(error.message) });
    }
  });
  el.append(choose, upload);
}

// --- watching ------------------------------------------------------------------------------------

/** Points of a window's middle, its first and last carried to the film's ends: [[x, row], ...] */
function corners(windows, end) {
  const middles = windows.map(([a, b], row) => [(a + b) / 2, row]);
  return [[0, 0], ...middles, [end, windows.length - 1]];
}

function drawing({ windows, shares, colours, end }) {
  const svg = make("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none" });
  const points = corners(windows, end);
  const below = windows.map(() => 0);
  colours.forEach((colour, k) => {
    const edge = (height) => points.map(([t, row]) => `${1000 * t / end},${100 - 100 * height[row]}`);
    const lower = edge(below);
    shares.forEach((share, row) => { below[row] += share[k]; });
    const outline = [...edge(below), ...lower.reverse()].join(" ");
    svg.append(make("polygon", { points: outline, fill: colour, class: "vidlib-band" }));
  });
  return svg;
}

/** What is said at a time: the window whose middle is nearest. */
function saying({ windows, shares, names }, seconds) {
  const away = ([a, b]) => Math.abs((a + b) / 2 - seconds);
  const row = windows.reduce((best, w, i) => (away(w) < away(windows[best]) ? i : best), 0);
  const order = names.map((name, k) => [shares[row][k], name]).sort((a, b) => b[0] - a[0]);
  const told = order.slice(0, 2).map(([p, name]) => `${name} ${Math.round(100 * p)} %`);
  return `${seconds.toFixed(1)} s: ${told.join(", ")}`;
}

function film({ model, el }) {
  const video = make("video", {
    controls: true, loop: true, muted: true, autoplay: true, playsInline: true,
  });
  const box = make("div", { className: "vidlib-film" }, video);
  const timeline = make("div", { className: "vidlib-timeline" });
  const frames = make("div", { className: "vidlib-frames" });
  let move = () => {}; // shows a time on the timeline
  let address = null;

  const seek = (seconds) => {
    if (video.src) {
      video.pause();
      video.currentTime = seconds;
    }
    move(seconds);
  };

  follow(model, ["film"], () => {
    if (address) URL.revokeObjectURL(address);
    address = null;
    const data = model.get("film");
    box.hidden = !data?.byteLength;
    if (box.hidden) {
      video.removeAttribute("src");
      return;
    }
    address = URL.createObjectURL(new Blob([data], { type: model.get("mime") }));
    video.setAttribute("aria-label", `Video: ${model.get("title")}`);
    video.src = address;
  });
  video.addEventListener("error", () => {
    if (video.src) model.send({ kind: "unplayable" });
  });

  follow(model, ["timeline"], () => {
    const told = model.get("timeline");
    timeline.hidden = !told.names;
    move = () => {};
    if (timeline.hidden) {
      timeline.replaceChildren();
      return;
    }
    const svg = drawing(told);
    const cursor = make("line", { y1: 0, y2: 100, class: "vidlib-cursor" });
    svg.append(cursor);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", told.alt);
    svg.addEventListener("click", (event) => {
      const { left, width } = svg.getBoundingClientRect();
      seek(told.end * (event.clientX - left) / width);
    });
    const slider = make("input", { type: "range", min: 0, max: told.end, step: 0.1, value: 0 });
    slider.setAttribute("aria-label", "Position in the video, seconds");
    slider.addEventListener("input", () => seek(Number(slider.value)));
    const reading = make("output");
    move = (seconds) => {
      const x = 1000 * Math.min(1, seconds / told.end);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      slider.value = seconds;
      reading.textContent = saying(told, seconds);
      slider.setAttribute("aria-valuetext", reading.textContent);
    };
    const legend = make("ul", {}, ...told.names.map((name, k) => make("li", {},
      make("span", { className: "vidlib-swatch", style: `background: ${told.colours[k]}` }), name)));
    timeline.replaceChildren(
      make("p", { textContent: "How probable, over time (a click or the arrow keys move the video)" }),
      svg, slider, reading, legend);
    move(video.currentTime || 0);
  });

  follow(model, ["frames"], () => {
    const all = model.get("frames");
    frames.hidden = !all.length;
    const most = Math.max(...all.map((f) => f.weight));
    frames.replaceChildren(
      make("p", { textContent: "The frames that counted most: the Transformer's attention, their share of it" }),
      ...all.map((f) => {
        const share = `${(100 * f.weight).toFixed(1)} %`;
        const button = make("button", { type: "button", title: `show ${f.seconds.toFixed(2)} s` },
          make("img", { src: f.picture, alt: `frame at ${f.seconds.toFixed(2)} s` }),
          make("span", { className: "vidlib-bar", style: `width: ${100 * f.weight / most}%` }),
          make("span", { textContent: `${f.seconds.toFixed(2)} s · ${share}` }));
        button.addEventListener("click", () => seek(f.seconds));
        return button;
      }));
  });

  let next = 0;
  const tick = () => { // the event "timeupdate" comes four times a second, too seldom for a cursor
    if (!video.paused) move(video.currentTime);
    next = requestAnimationFrame(tick);
  };
  tick();
  video.addEventListener("seeked", () => move(video.currentTime));
  el.append(box, timeline, frames);
  return () => {
    cancelAnimationFrame(next);
    if (address) URL.revokeObjectURL(address);
  };
}

export default {
  render(context) {
    context.el.classList.add("vidlib-panel");
    return context.model.get("part") === "choose" ? chooser(context) : film(context);
  },
};
