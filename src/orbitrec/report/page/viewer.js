"use strict";
// The map's isosurface by casting parallel rays, as report/isosurface.py does it: a plain canvas, so that it draws in
// every browser, with or without a graphics processor.

class Density {
  // Bytes of an n³ grid (z, y, x) and, for every block of 4³ voxels, the greatest value in it and in its neighbours:
  // where that is below the level a ray may jump by four voxels.
  constructor(bytes, n) {
    this.values = bytes;
    this.n = n;
    this.blocks = Math.ceil(n / 4);
    this.reach = this.#greatest();
  }

  #greatest() {
    const { n, blocks, values } = this;
    const own = new Uint8Array(blocks ** 3);
    for (let z = 0, i = 0; z < n; z++)
      for (let y = 0; y < n; y++)
        for (let x = 0; x < n; x++, i++) {
          const b = ((z >> 2) * blocks + (y >> 2)) * blocks + (x >> 2);
          if (values[i] > own[b]) own[b] = values[i];
        }
    let wide = own;
    for (const stride of [1, blocks, blocks * blocks]) {
      const from = wide;
      wide = from.slice();
      for (let b = 0; b < from.length; b++) {
        const place = Math.floor(b / stride) % blocks;
        if (place > 0 && from[b - stride] > wide[b]) wide[b] = from[b - stride];
        if (place < blocks - 1 && from[b + stride] > wide[b]) wide[b] = from[b + stride];
      }
    }
    return wide;
  }

  at(x, y, z) {
    const { n, values } = this;
    const i = x | 0, j = y | 0, k = z | 0;
    const u = x - i, v = y - j, w = z - k;
    const p = (k * n + j) * n + i, q = p + n * n;
    const a = values[p] + u * (values[p + 1] - values[p]);
    const b = values[p + n] + u * (values[p + n + 1] - values[p + n]);
    const c = values[q] + u * (values[q + 1] - values[q]);
    const d = values[q + n] + u * (values[q + n + 1] - values[q + n]);
    const front = a + v * (b - a), back = c + v * (d - c);
    return front + w * (back - front);
  }

  // Where the ray from p along d first passes the level within `length`, as a distance; -1 if it does not.
  hit(px, py, pz, dx, dy, dz, length, level) {
    const { blocks, reach } = this;
    const step = 0.75;
    let before = 0, t = 0, skipped = true;
    while (t <= length) {
      const x = px + t * dx, y = py + t * dy, z = pz + t * dz;
      if (reach[((z >> 2) * blocks + (y >> 2)) * blocks + (x >> 2)] <= level) {
        t += 4;
        skipped = true;
        continue;
      }
      const value = this.at(x, y, z);
      if (value > level) return skipped ? t : t - (step * (value - level)) / (value - before);
      before = value;
      skipped = false;
      t += step;
    }
    return -1;
  }
}

const LIGHT = normalised([-0.45, 0.55, 0.7]);
const HALF = normalised([LIGHT[0], LIGHT[1], LIGHT[2] + 1]);
const VIEWS = {
  z: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  x: [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
  y: [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
};

function normalised(v) {
  const length = Math.hypot(...v) || 1;
  return v.map((c) => c / length);
}

// A picture of size² pixels. The rows of `axes` are its right, its up and the direction to the viewer, in the map's xyz.
function render(density, image, size, axes, level, zoom, colour) {
  const { n } = density;
  const centre = n >> 1, radius = n / 2 - 2.01;
  const [right, up, towards] = axes;
  const pixels = new Uint32Array(image.data.buffer);
  pixels.fill(0);
  let drawn = 0;
  for (let row = 0, out = 0; row < size; row++) {
    const v = ((1 - (2 * row + 1) / size) * radius) / zoom;
    for (let column = 0; column < size; column++, out++) {
      const u = (((2 * column + 1) / size - 1) * radius) / zoom;
      const room = radius * radius - u * u - v * v;
      if (room <= 0) continue;
      const depth = Math.sqrt(room);
      const x = centre + u * right[0] + v * up[0] + depth * towards[0];
      const y = centre + u * right[1] + v * up[1] + depth * towards[1];
      const z = centre + u * right[2] + v * up[2] + depth * towards[2];
      const t = density.hit(x, y, z, -towards[0], -towards[1], -towards[2], 2 * depth, level);
      if (t < 0) continue;
      const hx = x - t * towards[0], hy = y - t * towards[1], hz = z - t * towards[2];
      const gx = density.at(hx - 1, hy, hz) - density.at(hx + 1, hy, hz);
      const gy = density.at(hx, hy - 1, hz) - density.at(hx, hy + 1, hz);
      const gz = density.at(hx, hy, hz - 1) - density.at(hx, hy, hz + 1);
      const norm = Math.hypot(gx, gy, gz) || 1;
      let diffuse = 0, gloss = 0;
      for (let axis = 0; axis < 3; axis++) {
        const along = (gx * axes[axis][0] + gy * axes[axis][1] + gz * axes[axis][2]) / norm;
        diffuse += along * LIGHT[axis];
        gloss += along * HALF[axis];
      }
      diffuse = Math.max(0, diffuse);
      gloss = 64 * diffuse * Math.max(0, gloss) ** 24;
      const fade = 0.72 + 0.28 * Math.min(1, Math.max(0, (depth - t) / radius + 0.6));
      const bright = (0.36 + 0.68 * diffuse) * fade;
      const [r, g, b] = colour.map((c) => Math.min(255, c * bright + gloss));
      pixels[out] = 0xff000000 | (b << 16) | (g << 8) | r;
      drawn++;
    }
  }
  return drawn;
}

class Viewer {
  constructor(root, map) {
    this.canvas = root.querySelector("canvas");
    this.map = map;
    const text = atob(map.bytes);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    this.density = new Density(bytes, map.n);
    this.axes = VIEWS.z;
    this.level = root.querySelector("[name=level]");
    this.zoom = root.querySelector("[name=zoom]");
    this.mirror = root.querySelector("[name=mirror]");
    this.shown = root.querySelector("output");
    this.bar = root.querySelector(".scale span");
    for (const slider of [this.level, this.zoom]) {
      slider.addEventListener("input", () => this.draw(true));
      slider.addEventListener("change", () => this.draw(false));
    }
    this.mirror.addEventListener("change", () => this.draw(false));
    for (const button of root.querySelectorAll("[data-view]"))
      button.addEventListener("click", () => {
        this.axes = VIEWS[button.dataset.view];
        this.draw(false);
      });
    this.#drags();
    this.canvas.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-20, 0], ArrowRight: [20, 0], ArrowUp: [0, -20], ArrowDown: [0, 20] }[event.key];
      if (!turn) return;
      event.preventDefault();
      this.turn(...turn);
      this.draw(false);
    });
    window.addEventListener("resize", () => this.draw(false));
    this.draw(false);
  }

  #drags() {
    const canvas = this.canvas;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      if (event.isTrusted) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.turn(event.clientX - last[0], event.clientY - last[1]);
      last = [event.clientX, event.clientY];
      this.draw(true);
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, () => {
        last = null;
        this.draw(false);
      });
  }

  // The surface follows the pointer: a drag by half the picture is a turn of 90°.
  turn(dx, dy) {
    const perPixel = Math.PI / (this.canvas.clientWidth || 400);
    const [right, up, towards] = this.axes;
    const a = dx * perPixel, b = dy * perPixel;
    const mix = (p, q, c, s) => p.map((value, i) => c * value + s * q[i]);
    const right1 = mix(right, towards, Math.cos(a), Math.sin(a));
    const towards1 = mix(towards, right, Math.cos(a), -Math.sin(a));
    const up2 = mix(up, towards1, Math.cos(b), -Math.sin(b));
    const towards2 = mix(towards1, up, Math.cos(b), Math.sin(b));
    this.axes = [right1, up2, towards2];
  }

  draw(moving) {
    this.moving = moving;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.#paint(this.moving);
    });
  }

  #paint(moving) {
    const { canvas, map } = this;
    const wide = (canvas.clientWidth || 400) * (window.devicePixelRatio || 1);
    const size = Math.round(Math.min(moving ? 0.5 * wide : 1.5 * wide, moving ? 260 : 760));
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    const image = context.createImageData(size, size);
    const axes = this.mirror.checked ? this.axes.map(([x, y, z]) => [-x, y, z]) : this.axes;
    const value = Number(this.level.value), zoom = Number(this.zoom.value);
    const level = (255 * (value - map.low)) / (map.high - map.low);
    const drawn = render(this.density, image, size, axes, level, zoom, map.colour);
    context.putImageData(image, 0, 0);
    this.shown.value = value.toPrecision(3);
    const across = ((map.n - 4.02) * map.voxel_A) / zoom;
    const decade = 10 ** Math.floor(Math.log10(across / 3));
    const length = Math.max(...[1, 2, 5].map((s) => s * decade).filter((l) => l <= across / 3));
    this.bar.style.width = `${(100 * length) / across}%`;
    this.bar.textContent = `${length} Å`;
    canvas.dataset.drawn = drawn;
  }
}

new Viewer(document.getElementById("viewer"), JSON.parse(document.getElementById("map").textContent));
