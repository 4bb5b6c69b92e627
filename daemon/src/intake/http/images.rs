//! `POST /v1/images`: from the first byte of a body to its row. The body goes to the disk as it comes,
//! in a thread of its own: the runtime's one thread never waits for a disk.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use segmenter::decode::{Format, sniff};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::refusal::{Refusal, object};
use super::{Desk, Peer};
use crate::intake::NotTaken;
use crate::outbox::job::{Sender, Ticket};
use crate::report::http::{ACCEPTED_SCHEMA, Accepted};

/// Enough to tell what a file is.
const HEAD_BYTES: usize = 132;
/// Pieces between network and disk.
const PIECES: usize = 4;
/// After so many bytes of a file the disk is looked at again.
const DISK_CHECK_BYTES: u64 = 4 * 1024 * 1024;
/// Of a body that is refused so much is read, so that a client that sends first and listens then hears
/// the answer.
const DRAIN_MAX_BYTES: u64 = 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What is safe now. `job` is the number that `scansided ledger show` knows.
#[derive(Debug, PartialEq, Eq)]
struct Receipt {
    job: Ticket,
    bytes: u64,
    sha256: String,
}

enum Piece {
    Bytes(Bytes),
    End,
}

pub(super) async fn post(
    State(desk): State<Arc<Desk>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let (head, mut body) = request.into_parts();
    let patience = Duration::from_secs(desk.config.request_timeout_s);
    let taken = timeout(patience, take(&desk, peer, &head.headers, &mut body)).await;
    match taken.unwrap_or(Err(Refusal::TooSlow)) {
        Ok(receipt) => {
            let Receipt { job, bytes, sha256 } = receipt;
            let body = Accepted {
                schema: ACCEPTED_SCHEMA,
                job,
                source: &desk.config.name,
                bytes,
                sha256,
            };
            object(StatusCode::ACCEPTED, &body)
        }
        Err(refusal) => refuse(&desk, refusal, &head.headers, body).await,
    }
}

/// For a connection beyond `connections_max`.
pub(super) async fn no_place(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    refuse(&desk, Refusal::NoPlace, &head.headers, body).await
}

async fn refuse(desk: &Desk, refusal: Refusal, headers: &HeaderMap, mut body: Body) -> Response {
    let source = &desk.config.name;
    desk.intake.status.metrics.refused(source, refusal.code());
    tracing::warn!(source, why = %refusal, "image refused");
    // With `Expect: 100-continue` nothing was sent yet, and nothing will be.
    if !headers.contains_key(header::EXPECT) {
        let drain = async {
            let mut n_bytes = 0;
            while let Ok(Some(piece)) = next(&mut body).await {
                n_bytes += piece.len() as u64;
                if n_bytes > DRAIN_MAX_BYTES {
                    break;
                }
            }
        };
        // Who goes on sending hears less.
        let _ = timeout(DRAIN_TIMEOUT, drain).await;
    }
    refusal.into_response()
}

async fn take(
    desk: &Arc<Desk>,
    peer: Peer,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Receipt, Refusal> {
    admit(desk, headers)?;
    let limit = desk.config.body_max_bytes;
    let too_large = Refusal::TooLarge { limit };
    if body.size_hint().lower() > limit {
        return Err(too_large);
    }
    desk.watermark.admit(&desk.intake)?;
    let patience = Duration::from_secs(desk.config.idle_timeout_s);
    let mut head = Vec::new();
    while head.len() < HEAD_BYTES {
        match timeout(patience, next(body)).await {
            Ok(Ok(Some(piece))) => head.extend(piece),
            Ok(Ok(None)) => break,
            Ok(Err(refusal)) => return Err(refusal),
            Err(_) => return Err(Refusal::TooSlow),
        }
    }
    let format = format(&head, headers)?;
    let (pieces, waiting) = mpsc::channel(PIECES);
    let shared = Arc::clone(desk);
    // Not awaited when the client leaves: it then ends by itself, for want of an end.
    let storing = spawn_blocking(move || store(&shared, peer, format, waiting));
    let mut n_bytes = 0;
    let mut piece = Bytes::from(head);
    loop {
        n_bytes += piece.len() as u64;
        if n_bytes > limit {
            return Err(too_large);
        }
        // It ended: its result says why.
        if pieces.send(Piece::Bytes(piece)).await.is_err() {
            break;
        }
        piece = match timeout(patience, next(body)).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => {
                // As above.
                let _ = pieces.send(Piece::End).await;
                break;
            }
            Ok(Err(refusal)) => return Err(refusal),
            Err(_) => return Err(Refusal::TooSlow),
        };
    }
    drop(pieces);
    match storing.await {
        Ok(Ok(receipt)) => Ok(receipt),
        Ok(Err(NotTaken::Refused(refusal))) => Err(refusal),
        Ok(Err(NotTaken::Failed(error))) => {
            // Full: somebody else said so already.
            let _ = desk.failed.try_send(error);
            Err(Refusal::Box)
        }
        Err(_) => Err(Refusal::Box),
    }
}

/// Who may send images.
fn admit(desk: &Desk, headers: &HeaderMap) -> Result<(), Refusal> {
    if *desk.stop.borrow() {
        return Err(Refusal::Stopping);
    }
    let credentials = desk.intake.credentials.borrow();
    let Some(token) = &credentials.token else {
        // Any page that a browser on this machine shows could send images otherwise.
        let foreign = headers.contains_key(header::ORIGIN);
        return if foreign {
            Err(Refusal::Foreign)
        } else {
            Ok(())
        };
    };
    let shown = headers.get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| {
        let (scheme, word) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(word)
    });
    if shown.is_some_and(|word| token.is(word)) {
        Ok(())
    } else {
        Err(Refusal::Unauthorized)
    }
}

/// The format by content; what a client calls it says nothing.
fn format(head: &[u8], headers: &HeaderMap) -> Result<Format, Refusal> {
    if head.is_empty() {
        return Err(Refusal::Empty);
    }
    let form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.starts_with(b"multipart/")
    });
    sniff(head).ok_or(if form {
        Refusal::Form
    } else {
        Refusal::NotAnImage
    })
}

/// The next piece with something in it.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
        match frame.await {
            None => return Ok(None),
            Some(Err(_)) => return Err(Refusal::CutOff),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                // Trailers.
                _ => {}
            },
        }
    }
}

/// Writes what comes; at its end the image is taken. Without an end nothing is kept.
fn store(
    desk: &Desk,
    peer: Peer,
    format: Format,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Receipt, NotTaken<Refusal>> {
    let intake = &desk.intake;
    let original = format!("image.{}", format.name());
    let sender = Sender {
        address: peer.0,
        ..Sender::default()
    };
    let incoming = intake.shelves.receive(&desk.config.name, &original)?;
    let mut incoming = incoming.sent_by(sender);
    let (mut digest, mut bytes, mut checked_bytes) = (Sha256::new(), 0, 0);
    loop {
        match pieces.blocking_recv() {
            None => return Err(Refusal::CutOff.into()),
            Some(Piece::End) => break,
            Some(Piece::Bytes(piece)) => {
                incoming.write(&piece)?;
                digest.update(&piece);
                bytes += piece.len() as u64;
            }
        }
        if bytes >= checked_bytes + DISK_CHECK_BYTES {
            checked_bytes = bytes;
            if desk.watermark.is_low(intake) {
                return Err(Refusal::DiskLow.into());
            }
        }
    }
    let job = intake.take::<Refusal>(incoming)?;
    let sha256 = hex::encode(digest.finalize());
    Ok(Receipt { job, bytes, sha256 })
}
