/** Open a picture, shrink it, and run networks on it with ONNX Runtime Web. */

import * as ort from './onnxruntime/ort.wasm.bundle.min.mjs';
import { shrink } from './resize.js';

ort.env.wasm.numThreads = 1; // threads need HTTP headers that a plain web server does not send

/**
 * Decode a picture, upright as its EXIF data says. Colour profiles are ignored, as Pillow ignores them.
 *
 * @param {Blob} blob an image file
 * @returns {Promise<ImageBitmap>}
 */
export const openPicture = (blob) => createImageBitmap(blob, { colorSpaceConversion: 'none' });

/**
 * Shrink a picture to what a network sees. Transparent parts become white.
 *
 * @param {ImageBitmap} picture
 * @param {{size: number, resize: number, filter: string}} view
 * @returns {Uint8ClampedArray} RGB, `size` × `size`
 */
export function look(picture, view) {
  const canvas = document.createElement('canvas');
  const read = (left, top, width, height) => {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.fillStyle = 'white';
    context.fillRect(0, 0, width, height);
    context.drawImage(picture, -left, -top);
    return context.getImageData(0, 0, width, height).data;
  };
  return shrink(read, picture.width, picture.height, view);
}

/** A network that is ready to run. */
export class Network {
  /** @param model a row of `models` in demo.json */
  static async load(model) {
    const network = new Network();
    network.model = model;
    network.session = await ort.InferenceSession.create(model.file, { executionProviders: ['wasm'] });
    await network.classify(new Uint8ClampedArray(3 * model.view.size ** 2)); // the first run is slow
    return network;
  }

  /**
   * Classify pixels.
   *
   * @param {Uint8ClampedArray} pixels RGB, see `look`
   * @returns {Promise<{probabilities: number[], energy: number, milliseconds: number}>}
   */
  async classify(pixels) {
    const { mean, std, view } = this.model;
    const area = view.size ** 2;
    const input = Float32Array.from({ length: 3 * area }, (_, i) => {
      const channel = Math.trunc(i / area);
      return (pixels[(i % area) * 3 + channel] / 255 - mean[channel]) / std[channel];
    });
    const tensor = new ort.Tensor('float32', input, [1, 3, view.size, view.size]);
    const start = performance.now();
    const outputs = await this.session.run({ [this.session.inputNames[0]]: tensor });
    const milliseconds = performance.now() - start;
    const logits = [...outputs[this.session.outputNames[0]].data];
    const largest = Math.max(...logits);
    const exponentials = logits.map((logit) => Math.exp(logit - largest));
    const sum = exponentials.reduce((a, b) => a + b, 0);
    return { probabilities: exponentials.map((e) => e / sum), energy: largest + Math.log(sum), milliseconds };
  }
}
