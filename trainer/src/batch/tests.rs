use contract::geometry::{Fit, InputRules};
use contract::intensity::{Normalize, Window};

use super::*;
use crate::augment::{Augmentation, Changes};
use crate::dataset::index::index;
use crate::dataset::tests::{by_name, error_of, pairs};
use crate::dataset::{LabelRule, Split};
use crate::train::Share;

fn options() -> LoaderOptions {
    LoaderOptions {
        input: InputRules {
            size: 32,
            fit: Fit::LongestSidePad,
            window: Window::None,
            normalize: Normalize::MinMax,
        },
        labels: LabelRule::Binary { class: 2 },
        augmentation: Some(Changes::Own(Augmentation {
            enabled: true,
            rotation_deg: 20.0,
            scale: [0.9, 1.1],
            shift: 0.05,
            flip_horizontal: true,
            flip_vertical: false,
            gamma: [0.8, 1.2],
            brightness: 0.1,
            contrast: 0.1,
            noise: 0.02,
            saturation: 0.0,
            hue: 0.0,
            probability: 0.5,
            equalize: 0.1,
        })),
        batch: 2,
        seed: 7,
        shuffle: true,
    }
}

type Values = (Vec<String>, Vec<f32>, Vec<u32>);

fn values(batches: impl Iterator<Item = Result<Batch>>) -> Vec<Values> {
    batches
        .map(|batch| {
            let batch = batch.unwrap();
            let images = batch.images.flatten_all().unwrap().to_vec1().unwrap();
            let labels = batch.labels.flatten_all().unwrap().to_vec1().unwrap();
            (batch.names, images, labels)
        })
        .collect()
}

#[test]
fn an_epoch_is_a_function_of_seed_and_number() {
    let folder = pairs(5);
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    let loader = Loader::new(&dataset, &dataset.of(Split::Train), options()).unwrap();
    assert_eq!(loader.n_batches(), 3);
    let epoch = values(loader.epoch(4, Share::ALL));
    assert_eq!(
        epoch.iter().map(|batch| batch.0.len()).collect::<Vec<_>>(),
        [2, 2, 1]
    );
    assert_eq!(epoch[0].1.len(), 2 * 3 * 32 * 32);
    assert_eq!(epoch[0].2.len(), 2 * 32 * 32);
    let mut names: Vec<&String> = epoch.iter().flat_map(|batch| &batch.0).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5, "every image once");
    assert_eq!(values(loader.epoch(4, Share::ALL)), epoch);
    assert_eq!(
        values(loader.epoch(4, Share { first: 2, every: 1 })),
        epoch[2..],
        "resumed in the middle"
    );
    let [one, two] = [0, 1].map(|first| values(loader.epoch(4, Share { first, every: 2 })));
    assert_eq!(
        [&one[..], &two[..]].concat(),
        [0, 2, 1].map(|i| epoch[i].clone())
    );
    assert_ne!(values(loader.epoch(5, Share::ALL)), epoch);
    drop(loader.epoch(6, Share::ALL));
}

#[test]
fn without_augmentation_a_batch_holds_the_frames_in_order() {
    let folder = pairs(3);
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    let options = LoaderOptions {
        augmentation: None,
        shuffle: false,
        ..options()
    };
    let loader = Loader::new(&dataset, &dataset.of(Split::Train), options).unwrap();
    let pixels: Vec<f32> = values(loader.epoch(0, Share::ALL))
        .into_iter()
        .flat_map(|batch| batch.1)
        .collect();
    let wanted: Vec<f32> = loader
        .frames()
        .iter()
        .flat_map(|frame| frame.pixels.iter().copied())
        .collect();
    assert_eq!(pixels, wanted);
    let placement = loader.frames()[0].placement;
    assert_eq!((placement.scaled_rows, placement.scaled_cols), (27, 32));
}

#[test]
fn the_references_changes_are_made_anew_in_every_epoch() {
    let folder = pairs(2);
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    let options = LoaderOptions {
        augmentation: Some(Changes::Reference),
        ..options()
    };
    let loader = Loader::new(&dataset, &dataset.of(Split::Train), options).unwrap();
    let epoch = values(loader.epoch(1, Share::ALL));
    assert_eq!(values(loader.epoch(1, Share::ALL)), epoch);
    assert_ne!(values(loader.epoch(2, Share::ALL)), epoch);
    assert_eq!(epoch[0].1.len(), 2 * 3 * 32 * 32);
}

#[test]
fn a_rule_that_fits_no_image_is_refused_before_training() {
    let folder = pairs(2);
    let dataset = index(folder.path(), &by_name(&[], &[], &[])).unwrap();
    let options = LoaderOptions {
        labels: LabelRule::Binary { class: 1 },
        ..options()
    };
    let text = error_of(Loader::new(&dataset, &dataset.of(Split::Train), options));
    assert!(
        text.contains("no image has a foreground pixel") && text.contains("[2]"),
        "{text}"
    );
}
