//! Preprocessing and prompts of the reference, through crate `contract`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use contract::geometry::{Fit, InputRules};
use contract::intensity::{Normalize, Window};
use contract::prompt::{interior_points, top_boxes};
use contract::resample::{bilinear_u8, mask_bilinear_half_even, nearest};
use contract::{Image, LabelMap};

use crate::fixture::{Fixture, values};

pub(crate) fn preprocessing(fixture: &mut Fixture) {
    for (i, names) in (0..).zip(fixture.entry["images"].as_array().unwrap().clone()) {
        whole_image(
            fixture,
            i,
            &[&names["image"], &names["mask"]].map(|it| data(it.as_str().unwrap())),
        );
    }
    for rule in fixture.entry["pil_resizes"].as_array().unwrap().clone() {
        let (name, [rows, cols]) = (rule["name"].as_str().unwrap(), side(&rule["to"]));
        let input = fixture.input(&format!("pil.{name}"));
        let got = bilinear_u8(&grey(&input), rows, cols);
        fixture.check(&format!("pil.{name}.bilinear"), &image_tensor(&got, 1));
        let got = nearest(&labels(&input), rows, cols);
        fixture.check(
            &format!("pil.{name}.nearest"),
            &label_tensor(&got, &[rows, cols]),
        );
    }
    for rule in fixture.entry["mask_resizes"].as_array().unwrap().clone() {
        let (name, [rows, cols]) = (rule["name"].as_str().unwrap(), side(&rule["to"]));
        let input = fixture.input(&format!("maskresize.{name}"));
        let maps: Vec<Tensor> = (0..input.dim(0).unwrap())
            .map(|i| {
                let map = labels(&input.get(i).unwrap().get(0).unwrap());
                label_tensor(&mask_bilinear_half_even(&map, rows, cols), &[1, rows, cols])
            })
            .collect();
        fixture.check(
            &format!("maskresize.{name}"),
            &Tensor::stack(&maps, 0).unwrap(),
        );
    }
}

const SIZE: usize = 1024;

fn whole_image(fixture: &mut Fixture, i: usize, [image, mask]: &[PathBuf; 2]) {
    let image = read_grey(image);
    let resized = image_tensor(&bilinear_u8(&image, SIZE, SIZE), 1);
    fixture.check(&format!("{i}.resized_u8.strided"), &strided(&resized));
    fixture.check(
        &format!("{i}.resized_u8.row511"),
        &resized.get(511).unwrap(),
    );
    let column = resized.narrow(1, 300, 1).unwrap().squeeze(1).unwrap();
    fixture.check(&format!("{i}.resized_u8.col300"), &column);
    for (rule, normalize, n_channels) in
        [("sam", Normalize::Sam, 3), ("medsam", Normalize::MinMax, 1)]
    {
        let input = InputRules {
            size: SIZE,
            fit: Fit::Stretch,
            window: Window::None,
            normalize,
        };
        let (chw, _) = input.prepare(&image);
        let planes = Tensor::from_vec(chw, (3, SIZE, SIZE), &Device::Cpu).unwrap();
        let planes: Vec<Tensor> = (0..n_channels)
            .map(|c| strided(&planes.get(c).unwrap()))
            .collect();
        fixture.check(
            &format!("{i}.{rule}.strided"),
            &Tensor::stack(&planes, 0).unwrap(),
        );
    }
    let mask = read_grey(mask);
    let foreground = mask
        .data
        .iter()
        .map(|&value| u8::from(value > 0.0))
        .collect();
    let mask = LabelMap {
        rows: mask.rows,
        cols: mask.cols,
        data: foreground,
    };
    let large = nearest(&mask, SIZE, SIZE);
    let tensor = strided(&label_tensor(&large, &[SIZE, SIZE]))
        .unsqueeze(0)
        .unwrap();
    fixture.check(&format!("{i}.mask1024.strided"), &tensor);
    let small = mask_bilinear_half_even(&large, 256, 256);
    fixture.check(
        &format!("{i}.mask256"),
        &label_tensor(&small, &[1, 1, 256, 256]),
    );
    fixture.check(&format!("{i}.boxes_without_jitter"), &boxes(&large, 3).0);
}

pub(crate) fn prompts_from_mask(fixture: &mut Fixture) {
    for (case, rule) in fixture.entry["cases"].as_object().unwrap().clone() {
        let count = rule["region_type"]
            .as_str()
            .unwrap()
            .rsplit('_')
            .next()
            .unwrap();
        let map = labels(&fixture.input(&case));
        let (corners, kept) = boxes(&map, count.parse().unwrap());
        fixture.check(&format!("{case}.boxes_without_jitter"), &corners);
        fixture.check(
            &format!("{case}.kept_mask"),
            &label_tensor(&kept, &[map.rows, map.cols]),
        );
        if !rule["points"].as_bool().unwrap() {
            continue;
        }
        // One component: every draw has the same candidates; labels are 1.
        let candidates = &interior_points(&map, 1, 0.1)[0];
        for (which, point) in [("first", candidates.first()), ("last", candidates.last())] {
            let (x, y) = *point.unwrap();
            let rows = vec![vec![x as f32, y as f32, 1.0]; 8];
            let points = Tensor::new(rows, &Device::Cpu).unwrap();
            fixture.check(&format!("{case}.points_{which}_candidate"), &points);
        }
    }
}

fn boxes(map: &LabelMap, count: usize) -> (Tensor, LabelMap) {
    let top = top_boxes(map, count);
    let rows: Vec<Vec<f32>> = top
        .boxes
        .iter()
        .map(|it| vec![it.x0, it.y0, it.x1, it.y1])
        .collect();
    (Tensor::new(rows, &Device::Cpu).unwrap(), top.kept)
}

fn data(name: &str) -> PathBuf {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mri_prostate");
    shared.join(name.strip_prefix("MRI-Prostate/").unwrap())
}

fn read_grey(path: &Path) -> Image {
    let image = image::open(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .to_luma8();
    Image {
        rows: image.height() as usize,
        cols: image.width() as usize,
        channels: 1,
        data: image.into_raw().into_iter().map(f32::from).collect(),
    }
}

/// [7::16, 7::16]
fn strided(plane: &Tensor) -> Tensor {
    let at = Tensor::arange_step(7u32, SIZE as u32, 16, &Device::Cpu).unwrap();
    plane
        .index_select(&at, 0)
        .unwrap()
        .index_select(&at, 1)
        .unwrap()
}

fn side(pair: &serde_json::Value) -> [usize; 2] {
    [0, 1].map(|i| pair[i].as_u64().unwrap() as usize)
}

fn grey(plane: &Tensor) -> Image {
    let (rows, cols) = plane.dims2().unwrap();
    let data = values(plane).into_iter().map(|it| it as f32).collect();
    Image {
        rows,
        cols,
        channels: 1,
        data,
    }
}

fn labels(plane: &Tensor) -> LabelMap {
    let (rows, cols) = plane.dims2().unwrap();
    LabelMap {
        rows,
        cols,
        data: values(plane).into_iter().map(|it| it as u8).collect(),
    }
}

fn image_tensor(image: &Image, channels: usize) -> Tensor {
    assert_eq!(image.channels, channels);
    Tensor::from_slice(&image.data, (image.rows, image.cols), &Device::Cpu).unwrap()
}

fn label_tensor(map: &LabelMap, shape: &[usize]) -> Tensor {
    let tensor = Tensor::from_slice(&map.data, shape, &Device::Cpu).unwrap();
    tensor.to_dtype(DType::F32).unwrap()
}
