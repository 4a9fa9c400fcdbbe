/**
 * Shrink a picture exactly as Pillow and timm's evaluation transform do.
 *
 * A browser's own scaling uses another filter, and a network answers differently to its result. Pillow resizes in two
 * passes, first along the rows, then along the columns. Between the passes it rounds to 8 bits. Its weights are integers
 * that stand for multiples of 2^-22.
 */

/** Filters of Pillow: the radius in output pixels, and the weight at a distance x. */
const FILTERS = {
  bilinear: { radius: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { radius: 2, weight: cubic },
  lanczos: { radius: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Keys' cubic convolution kernel with a = -0.5. */
function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

const ONE = 2 ** 22; // the integer that stands for a weight of 1

/**
 * Compute which input pixels make each output pixel along one axis.
 *
 * @returns {{start: number, weights: Int32Array}[]} for each output pixel, its first input pixel and the weights.
 */
function taps(inputSize, outputSize, filter) {
  const scale = inputSize / outputSize;
  const stretch = Math.max(scale, 1); // a filter grows with the reduction: this is the antialiasing
  const radius = filter.radius * stretch;
  return Array.from({ length: outputSize }, (_, i) => {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - radius + 0.5));
    const stop = Math.min(inputSize, Math.trunc(center + radius + 0.5));
    const exact = Array.from({ length: stop - start }, (_, k) => filter.weight((start + k - center + 0.5) * (1 / stretch)));
    const sum = exact.reduce((a, b) => a + b, 0);
    return { start, weights: Int32Array.from(exact, (w) => Math.trunc((w / sum) * ONE + (w < 0 ? -0.5 : 0.5))) };
  });
}

/**
 * Filter lines of RGB or RGBA pixels.
 *
 * @param input 8-bit values; pixel k of line n starts at `n * line + k * step`.
 * @param output 8-bit RGB values; pixel i of line n starts at `n * outputLine + i * outputStep`.
 */
function filterLines(input, line, step, output, outputLine, outputStep, lines, tapsOfAxis) {
  for (let n = 0; n < lines; n++) {
    for (let i = 0; i < tapsOfAxis.length; i++) {
      const { start, weights } = tapsOfAxis[i];
      let from = n * line + start * step;
      let red = ONE / 2, green = ONE / 2, blue = ONE / 2;
      for (let k = 0; k < weights.length; k++, from += step) {
        red += input[from] * weights[k];
        green += input[from + 1] * weights[k];
        blue += input[from + 2] * weights[k];
      }
      const to = n * outputLine + i * outputStep;
      output[to] = red >> 22; // a Uint8ClampedArray clips to 0 … 255
      output[to + 1] = green >> 22;
      output[to + 2] = blue >> 22;
    }
  }
}

/** Round halves to the even neighbour, as Python does. */
function roundHalfToEven(x) {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + (floor % 2) : Math.round(x);
}

const MAX_TILE = 4_000_000; // pixels read at a time: a phone's canvas holds no whole photograph

/**
 * Resize the shorter side of a picture to `resize` pixels, and cut the central square of `size` pixels out.
 *
 * @param {(left: number, top: number, width: number, height: number) => Uint8ClampedArray} read gives RGBA pixels.
 * @param {{size: number, resize: number, filter: string}} view
 * @returns {Uint8ClampedArray} RGB, `size` × `size`.
 */
export function shrink(read, width, height, { size, resize, filter }) {
  const short = Math.min(width, height);
  const newWidth = Math.trunc((resize * width) / short);
  const newHeight = Math.trunc((resize * height) / short);
  const columns = taps(width, newWidth, FILTERS[filter]);
  const rows = taps(height, newHeight, FILTERS[filter]);
  const small = new Uint8ClampedArray(newHeight * newWidth * 3);

  // Pillow 13 begins with the columns where the height loses more than twice as many pixels as the width.
  if (height > newHeight && height - newHeight > 2 * (width - newWidth)) {
    const low = new Uint8ClampedArray(newHeight * width * 3);
    const step = Math.max(1, Math.trunc(MAX_TILE / height));
    for (let left = 0; left < width; left += step) {
      const count = Math.min(step, width - left);
      filterLines(read(left, 0, count, height), 4, count * 4, low.subarray(left * 3), 3, width * 3, count, rows);
    }
    filterLines(low, width * 3, 3, small, newWidth * 3, 3, newHeight, columns);
  } else {
    const narrow = new Uint8ClampedArray(height * newWidth * 3);
    const step = Math.max(1, Math.trunc(MAX_TILE / width));
    for (let top = 0; top < height; top += step) {
      const count = Math.min(step, height - top);
      const output = narrow.subarray(top * newWidth * 3);
      filterLines(read(0, top, width, count), width * 4, 4, output, newWidth * 3, 3, count, columns);
    }
    filterLines(narrow, 3, newWidth * 3, small, 3, newWidth * 3, newWidth, rows);
  }
  const left = roundHalfToEven((newWidth - size) / 2);
  const top = roundHalfToEven((newHeight - size) / 2);
  const square = new Uint8ClampedArray(size * size * 3);
  for (let y = 0; y < size; y++) {
    const from = ((top + y) * newWidth + left) * 3;
    square.set(small.subarray(from, from + size * 3), y * size * 3);
  }
  return square;
}
