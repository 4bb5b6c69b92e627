use std::time::Duration;

use contract::mask::Rle;
use segmenter::Timing;
use segmenter::decode::{Identifiers, SpacingFrom};
use segmenter::result::Instance;
use serde_json::json;
use uuid::Uuid;

use super::{Encoder, Image, Model, Notice, Origin, Report, SeriesFacts};
use crate::failure::Failure;
use crate::report::privacy::Privacy;
use crate::report::schema::Document;
use crate::report::schema::tests::check;
use crate::report::{Findings, VolumeOf, result, sha256};

fn encoder(inline_max_bytes: usize) -> Encoder {
    Encoder {
        node: "box-1".into(),
        boot: Uuid::from_u128(7),
        inline_max_bytes,
        privacy: Privacy::Full,
    }
}

fn model() -> Model {
    Model {
        name: "lv".into(),
        version: "1.0.0".into(),
        digest: "d".repeat(64),
        precision: contract::manifest::Precision::Int8,
        half_precision: None,
    }
}

fn report(encoder: &Encoder, instances: usize) -> Report {
    let sha256 = sha256(b"file");
    let instance = |frame| Instance {
        id: 1,
        label: "cavity".into(),
        frame,
        bbox: [1, 2, 3, 4],
        area_px: 12,
        area_mm2: (frame == 0).then_some(24.0),
        mask: Rle {
            size: [8, 8],
            counts: "0".repeat(500),
        },
    };
    let found = Findings {
        image: Image {
            sha256: sha256.clone(),
            rows: 8,
            cols: 8,
            frames: 1,
            spacing_mm: Some([1.4, 1.4]),
            spacings_mm: None,
            spacing_from: Some(SpacingFrom::PixelSpacing),
            modality: None,
            identifiers: None,
        },
        identifiers: Identifiers {
            patient_id: Some("DOE".into()),
            ..Identifiers::default()
        },
        sha256,
        instances: (0..instances).map(instance).collect(),
        warnings: Vec::new(),
        decode: Duration::from_micros(1500),
        timing: Timing::default(),
        encode: Duration::ZERO,
        frames: Vec::new(),
        labels: Vec::new(),
    };
    let origin = Origin {
        job: Some(12),
        source: "inbox".into(),
        received_at: "2026-11-24T00:00:00.000Z".into(),
        wait_ms: 1.0,
    };
    encoder.report(found, &origin, &model())
}

#[test]
fn results_obey_the_shipped_schema() {
    let encoder = encoder(2000);
    for instances in [0, 1, 3, 100] {
        let first = &encoder.messages(report(&encoder, instances))[0];
        let value = serde_json::from_slice(&first.payload).unwrap();
        check(Document::Result, &value, "result");
    }
    let full = serde_json::to_value(report(&encoder, 1)).unwrap();
    for key in Document::Result.json()["required"].as_array().unwrap() {
        assert!(full.get(key.as_str().unwrap()).is_some(), "{key}");
    }
}

#[test]
fn events_obey_the_shipped_schema() {
    let encoder = encoder(2000);
    let reason = Failure::CrashLoop { attempts: 3 }.reason();
    let facts = SeriesFacts {
        series: Uuid::from_u128(8),
        source: "inbox".into(),
        images: 2,
        model: model(),
        volumes: vec![segmenter::seg::Volume {
            id: 1,
            label: "cavity".into(),
            volume_ml: 1.5,
        }],
        warnings: vec!["planes_uneven".into()],
        warned_images: [("slice_missing".to_owned(), 1)].into(),
        volume: Some(VolumeOf {
            number: 1,
            of: 2,
            by: [("EchoNumbers".to_owned(), "1".to_owned())].into(),
        }),
        replaces: vec![Uuid::from_u128(11)],
        jobs: vec![Uuid::from_u128(9), Uuid::from_u128(10)],
    };
    let messages = [
        encoder.quarantined((7, "inbox"), Some(Uuid::from_u128(9)), 1, &reason),
        encoder.quarantined((7, "inbox"), None, 2, &reason),
        encoder.series(&facts, 3),
        encoder.notice(&Notice::Created { remains: None }, 4),
        encoder.notice(
            &Notice::Renamed {
                before: "box-0".into(),
                next_seq: 5,
            },
            5,
        ),
    ];
    for message in messages {
        let value = serde_json::from_slice(&message.payload).unwrap();
        check(Document::Event, &value, "event");
    }
}

#[test]
#[should_panic(expected = "result.patient_name is unknown")]
fn the_schema_check_finds_an_extra_field() {
    let mut value = serde_json::to_value(report(&encoder(9999), 1)).unwrap();
    value["patient_name"] = json!("x");
    check(Document::Result, &value, "result");
}

#[test]
fn a_large_result_is_split_and_joins_again() {
    let encoder = encoder(2000);
    let whole = report(&encoder, 10);
    let messages = encoder.messages(whole.clone());
    assert!(messages.iter().all(|message| message.payload.len() <= 2000));
    assert_eq!(messages[0].topic, "result/inbox");
    let first: Report = serde_json::from_slice(&messages[0].payload).unwrap();
    let masks = first.masks.unwrap();
    assert_eq!(masks.parts, messages.len() - 1);
    assert_eq!(messages[1].topic, format!("mask/{}/1", whole.job_id));
    let joined: Vec<u8> = messages[1..]
        .iter()
        .flat_map(|message| message.payload.clone())
        .collect();
    assert_eq!((joined.len(), sha256(&joined)), (masks.bytes, masks.sha256));
    let instances: Vec<result::Instance> = serde_json::from_slice(&joined).unwrap();
    assert_eq!(instances, whole.instances);
}

#[test]
fn bare_instances_stay_in_the_result_while_they_fit() {
    let encoder = encoder(2000);
    let first = &encoder.messages(report(&encoder, 5))[0];
    let report: Report = serde_json::from_slice(&first.payload).unwrap();
    assert_eq!(report.instances.len(), 5);
    assert!(report.instances[0].mask.is_none());
    assert!(report.warnings.is_empty());
}
