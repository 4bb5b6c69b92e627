//! What the box says about itself. Nothing here names an image or a patient.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::Desk;
use super::refusal::{Refusal, object};
use crate::disk;
use crate::outbox::OutboxError;
use crate::report::http::{Alive, Ready};
use crate::spool::name;
use crate::status::metrics::Snapshot;

pub(super) type Page = (Instant, String);

/// Reading the ledger costs a walk over all pending jobs.
const PAGE_LIFETIME: Duration = Duration::from_secs(1);

pub(super) async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    let mut last = desk.page.lock().await;
    if last
        .as_ref()
        .is_none_or(|(at, _)| at.elapsed() >= PAGE_LIFETIME)
    {
        let shared = Arc::clone(&desk);
        *last = match spawn_blocking(move || page(&shared)).await {
            Ok(Ok(text)) => Some((Instant::now(), text)),
            Ok(Err(error)) => {
                tracing::error!(%error, "metrics cannot be read");
                None
            }
            Err(_) => None,
        };
    }
    match &*last {
        Some((_, text)) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text.clone()).into_response()
        }
        None => Refusal::Box.into_response(),
    }
}

/// Blocking: reads the outbox.
fn page(desk: &Desk) -> Result<String, OutboxError> {
    let intake = &desk.intake;
    let status = &intake.status;
    let oldest = intake.outbox.oldest_pending()?;
    let credentials = intake.credentials.borrow();
    let certificates = credentials.expiries.iter();
    Ok(status.metrics.page(&Snapshot {
        ledger: intake.outbox.ledger()?,
        counts: status.counts(),
        outbox_file_bytes: fs::metadata(intake.outbox.path()).map_or(0, |file| file.len()),
        oldest_pending: oldest.map_or(Duration::ZERO, |job| name::waited(&job.file)),
        segmentations: status.pacs.counts(),
        in_hand: status.in_hand(),
        stuck: status.is_stuck(desk.image_timeout),
        mqtt_connected: status.is_connected(),
        disk_free_bytes: disk::free_bytes(&intake.shelves.accepted),
        certificates: certificates
            .map(|(path, end)| (path.display().to_string(), end))
            .collect(),
    }))
}

/// The event loop turns, since it answers, and no image has been in hand for too long: what systemd's
/// watchdog is told.
pub(super) async fn health(State(desk): State<Arc<Desk>>) -> Response {
    let in_hand = desk.intake.status.in_hand();
    let stuck = desk.intake.status.is_stuck(desk.image_timeout);
    let body = Alive {
        alive: !stuck,
        image_in_hand_s: in_hand.as_secs_f64(),
    };
    object(code(!stuck), &body)
}

/// An image would be taken now. The bundle has reproduced its golden mask, or no port were open. A
/// broker that is away holds up nothing.
pub(super) async fn ready(State(desk): State<Arc<Desk>>) -> Response {
    let disk_low = desk.watermark.is_low(&desk.intake);
    let queue_full = desk.intake.tickets.capacity() == 0;
    let stopping = *desk.stop.borrow();
    let status = &desk.intake.status;
    let mut reasons = status.reasons();
    reasons.extend(queue_full.then_some("queue_full"));
    let ready = !(disk_low || queue_full || stopping);
    let shared = Arc::clone(&desk);
    // Looks into a folder. It is for people, like what is said of MQTT.
    let looked = spawn_blocking(move || shared.intake.status.pacs.words()).await;
    let body = Ready {
        ready,
        state: status.readiness(),
        reasons,
        mqtt: status.broker().to_string(),
        segmentations: looked.ok().flatten(),
    };
    object(code(ready), &body)
}

fn code(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
