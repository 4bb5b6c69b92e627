// Segmentations as two JavaScript readers see them: itk-wasm, and cornerstone's adapters, which OHIF uses.
//
// node seg_readers.mjs NODE_MODULES JOBS.json: a job has a `seg`, an `out` folder, and the `images` of its
// series. Writes masks as bytes to `out` and what else is said to `out`/answer.json.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [modules, jobs] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(modules), "anchor.js"));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);

const { readSegmentationNode } = await load("@itk-wasm/dicom");
const { adaptersSEG } = await import(
  pathToFileURL(path.join(path.resolve(modules), "@cornerstonejs/adapters/dist/esm/index.js")).href
);
const { metaData } = await import(
  pathToFileURL(path.join(path.resolve(modules), "@cornerstonejs/core/dist/esm/index.js")).href
);

let described = new Map();
const provider = {
  get: (kind, id) => described.get(id)?.[kind],
};
metaData.addProvider((kind, id) => provider.get(kind, id), 10000);

function describe(image) {
  const [row, column] = [image.orientation.slice(0, 3), image.orientation.slice(3)];
  return {
    instance: {
      SOPInstanceUID: image.uid,
      SeriesInstanceUID: image.series,
      FrameOfReferenceUID: image.space,
      ImagePositionPatient: image.position,
      ImageOrientationPatient: image.orientation,
      PixelSpacing: image.spacing,
      Rows: image.rows,
      Columns: image.cols,
      NumberOfFrames: image.frames,
    },
    generalImageModule: { sopInstanceUID: image.uid, instanceNumber: 1 },
    generalSeriesModule: { seriesInstanceUID: image.series, modality: "MR" },
    imagePixelModule: { rows: image.rows, columns: image.cols, bitsAllocated: 16, samplesPerPixel: 1 },
    imagePlaneModule: {
      rows: image.rows,
      columns: image.cols,
      rowCosines: row,
      columnCosines: column,
      imageOrientationPatient: image.orientation,
      imagePositionPatient: image.position,
      rowPixelSpacing: image.spacing[0],
      columnPixelSpacing: image.spacing[1],
      frameOfReferenceUID: image.space,
    },
  };
}

async function itk(job) {
  const { segImage } = await readSegmentationNode(job.seg);
  writeFileSync(path.join(job.out, "itk.raw"), Uint8Array.from(segImage.data));
  const { size, origin, spacing, direction } = segImage;
  return { size, origin: [...origin], spacing: [...spacing], direction: [...direction] };
}

async function adapters(job) {
  described = new Map(job.images.map((image) => [image.id, describe(image)]));
  const bytes = readFileSync(job.seg);
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const ids = job.images.map((image) => image.id);
  const state = await adaptersSEG.Cornerstone3D.Segmentation.generateToolState(ids, buffer, provider);
  // Segments that overlap are in further groups; ours do not.
  if (state.labelMapImages.length !== 1) {
    throw new Error(`${state.labelMapImages.length} groups of label maps`);
  }
  const maps = state.labelMapImages[0].map((image) => Uint8Array.from(image.voxelManager.getScalarData()));
  writeFileSync(path.join(job.out, "adapters.raw"), Buffer.concat(maps));
  return { images: ids };
}

for (const job of JSON.parse(readFileSync(jobs))) {
  const answer = {};
  for (const [name, reader] of Object.entries({ itk, adapters })) {
    try {
      answer[name] = await reader(job);
    } catch (error) {
      answer[name] = { error: String(error?.message ?? error).slice(0, 300) };
    }
  }
  writeFileSync(path.join(job.out, "answer.json"), JSON.stringify(answer));
}
process.exit(0);
