//! What the subscriber heard, held against the phantoms' truth.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use contract::mask::Overlap;
use contract::{LabelMap, Manifest};
use serde_json::Value;

use super::setup::{SentImages, Setup};
use super::subscriber::Received;
use super::{DemoError, patient};
use crate::outbox::Ledger;
use crate::report::Report;

pub(super) struct Scoreboard {
    sent_images: SentImages,
    manifest: Manifest,
    overlays: PathBuf,
    started: Instant,
    seen: ImagesSeen,
    dice: Vec<f64>,
}

/// What became of the images. At least once: a copy of a message counts nothing.
#[derive(Default)]
struct ImagesSeen {
    answered: BTreeSet<u32>,
    /// Sequence numbers of the events.
    quarantined: BTreeSet<u64>,
}

impl ImagesSeen {
    fn is_ended(&self, images: u32) -> bool {
        self.answered.len() + self.quarantined.len() >= images as usize
    }

    fn is_complete(&self, images: u32) -> bool {
        self.answered.len() == images as usize
    }
}

impl Scoreboard {
    pub(super) fn new(setup: &Setup, manifest: Manifest, started: Instant) -> Self {
        Self {
            sent_images: SentImages::default(),
            manifest,
            overlays: setup.overlays.clone(),
            started,
            seen: ImagesSeen::default(),
            dice: Vec::new(),
        }
    }

    pub(super) fn sent_images(&self) -> SentImages {
        Arc::clone(&self.sent_images)
    }

    /// Every phantom came back with masks.
    pub(super) fn complete(&self, images: u32) -> bool {
        self.seen.is_complete(images)
    }

    /// Every phantom came back, with masks or with the reason why not.
    pub(super) fn ended(&self, images: u32) -> bool {
        self.seen.is_ended(images)
    }

    pub(super) fn receive(
        &mut self,
        received: Received,
        out: &mut impl Write,
    ) -> Result<(), DemoError> {
        let Received::Message {
            topic,
            payload,
            retained,
        } = received
        else {
            return Ok(());
        };
        let not_json = |source| DemoError::Payload {
            topic: topic.clone(),
            source,
        };
        if topic.contains("/result/") {
            let report: Report = serde_json::from_slice(&payload).map_err(not_json)?;
            self.result(&topic, &report, out)?;
        } else if topic.ends_with("/event") {
            let event: Value = serde_json::from_slice(&payload).map_err(not_json)?;
            // The state directory of a demo is a new one, and says so.
            if event["event"] == "quarantined" {
                self.seen.quarantined.extend(event["seq"].as_u64());
                writeln!(out, "{topic}  {}: {}", event["event"], event["words"])?;
            }
        } else if topic.ends_with("/availability") && !retained {
            writeln!(out, "{topic}  {}", String::from_utf8_lossy(&payload))?;
            if payload == b"online" {
                let ms = self.started.elapsed().as_millis();
                writeln!(out, "daemon   online {ms} ms after its start began\n")?;
            }
        }
        out.flush()?;
        Ok(())
    }

    fn result(
        &mut self,
        topic: &str,
        report: &Report,
        out: &mut impl Write,
    ) -> Result<(), DemoError> {
        let sent = self
            .sent_images
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&report.image.sha256)
            .copied();
        let Some((number, since)) = sent else {
            // One that a visitor put into the inbox.
            writeln!(out, "{topic}  job {}\n  {}", report.job_id, found(report))?;
            return Ok(times(report, out)?);
        };
        let total_ms = since.elapsed().as_millis();
        let name = patient::file_name(number);
        let truth = patient::slice(number);
        let labels = paint(report);
        // The truth has one class, the left ventricle: the bundle's first.
        let overlap = self
            .manifest
            .classes
            .first()
            .and_then(|class| overlap(&labels, class.id, &truth.labels).dice());
        let picture = self.overlays.join(&name).with_extension("png");
        let png = segmenter::overlay::overlay_png(&truth.image, &labels, &self.manifest.classes);
        fs::write(&picture, png).map_err(|source| DemoError::Folder {
            path: picture.clone(),
            source,
        })?;
        let dice = overlap.map_or_else(|| "-".to_owned(), |dice| format!("{dice:.3}"));
        writeln!(out, "{topic}  {name}  Dice {dice}\n  {}", found(report))?;
        times(report, out)?;
        writeln!(out, "  {total_ms} ms from inbox to subscriber")?;
        writeln!(out, "  {}", picture.display())?;
        if self.seen.answered.insert(number) {
            self.dice.extend(overlap);
        }
        Ok(())
    }

    pub(super) fn summary(&self, ledger: &Ledger, out: &mut impl Write) -> io::Result<()> {
        let mean = self.dice.iter().sum::<f64>() / self.dice.len().max(1) as f64;
        writeln!(
            out,
            "\n{} images, mean Dice {mean:.3} against the phantoms' truth, {} quarantined\n\
             ledger: {ledger}",
            self.seen.answered.len(),
            self.seen.quarantined.len()
        )?;
        writeln!(out, "overlays: {}", self.overlays.display())?;
        out.flush()
    }
}

fn found(report: &Report) -> String {
    let words: Vec<String> = report
        .instances
        .iter()
        .map(|instance| {
            let mm2 = instance.area_mm2.map(|area| format!(", {area:.1} mm2"));
            let (label, px) = (&instance.label, instance.area_px);
            format!("{label} {px} px{}", mm2.unwrap_or_default())
        })
        .collect();
    if words.is_empty() {
        "nothing found".to_owned()
    } else {
        words.join("; ")
    }
}

fn times(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let ms = report.timing_ms;
    writeln!(
        out,
        "  ms: wait {:.1}, decode {:.1}, preprocess {:.1}, infer {:.1}, postprocess {:.1}, encode {:.1}",
        ms.wait, ms.decode, ms.preprocess, ms.infer, ms.postprocess, ms.encode
    )
}

/// The masks of the first frame as they were received.
fn paint(report: &Report) -> LabelMap {
    let mut labels = LabelMap::new(report.image.rows, report.image.cols);
    for instance in &report.instances {
        if let Some(mask) = &instance.mask
            && instance.frame == 0
            && let Err(error) = mask.paint(&mut labels, instance.id)
        {
            tracing::error!(%error, "a mask was received that does not decode");
        }
    }
    labels
}

fn overlap(found: &LabelMap, class: u8, truth: &LabelMap) -> Overlap {
    let mut only = LabelMap::new(found.rows, found.cols);
    for (target, &label) in only.data.iter_mut().zip(&found.data) {
        *target = u8::from(label == class);
    }
    Overlap::of(&only, truth, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantined_image_ends_the_demo_but_does_not_complete_it() {
        let mut seen = ImagesSeen::default();
        seen.answered.extend([0, 1]);
        assert!(!seen.is_ended(3) && !seen.is_complete(3));
        assert!(seen.is_ended(2) && seen.is_complete(2));
        seen.quarantined.insert(9);
        // The same event again, as after a lost PUBACK.
        seen.quarantined.insert(9);
        assert!(!seen.is_ended(4));
        assert!(seen.is_ended(3) && !seen.is_complete(3));
    }
}
