// What the end-to-end tests are made of: images by qemu-img and qemu-io, the built executable, file
// systems on loop devices, and what qemu-img says about the result. Everything is asynchronous, so
// that the tests of a file, which mostly wait for disks, overlap.

export { empty, fill, pack, type Scarce, unpack } from "./support/filling.ts";
export { Holder } from "./support/holder.ts";
export { changes, copyInto, eventful } from "./support/images.ts";
export { makeOriginal, type Original, type Views } from "./support/original.ts";
export {
  type Ending,
  env,
  executable,
  expectRefusal,
  guest,
  have,
  image,
  isRoot,
  judged,
  must,
  mustImage,
  nobody,
  qemuImg,
  run,
} from "./support/programs.ts";
export { random } from "./support/random.ts";
export { Scene } from "./support/scene.ts";
export { keep, type Tally } from "./support/tally.ts";
export { type Attempt, inTrouble, type Sweep, sweep, type Trouble } from "./support/trouble.ts";
export {
  digest,
  digestOfFile,
  look,
  sha256,
  snapshotsOf,
  view,
  type View,
} from "./support/views.ts";
export { inParallel, sleep, until } from "./support/waiting.ts";
