//! One request to its response: `response/1`.

use super::client::{CORRELATION_MAX_BYTES as ID_MAX_BYTES, Request};
use crate::clock;
use crate::config::{MQTT_SOURCE, Verb};
use crate::intake::{Busy, Intake, NotTaken};
use crate::outbox::job::{Input, Sender};
use crate::outbox::{self, ReplayRange};
use crate::report::encode::object;
use crate::report::request::ReplayRequest;
use crate::report::response::{self, Answer, Code, Outcome, Refused, Response, Taken};
use crate::spool::AcceptError;

/// What answers are made from.
#[derive(Debug, Clone)]
pub(super) struct Responder {
    pub(super) node: String,
    pub(super) image_max_bytes: u64,
    pub(super) intake: Intake,
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the id has more than {ID_MAX_BYTES} bytes")]
    Id,
    #[error("this is no request: {0}")]
    Unreadable(serde_json::Error),
    #[error("{replays_max} replays are under way")]
    Busy { replays_max: u64 },
    #[error("the payload is empty")]
    Empty,
    #[error("the image has {bytes} bytes, the limit is {limit}")]
    TooLarge { bytes: usize, limit: u64 },
    #[error("the disk is below its watermark")]
    DiskLow,
    #[error("as many images wait as the queue takes")]
    QueueFull,
    #[error("the daemon is stopping")]
    Stopping,
}

/// Codes for which an image is not taken. While the daemon stops a request waits for the next start.
pub(crate) const OF_IMAGES: [&str; 5] = [
    Code::IdTooLong.word(),
    Code::Empty.word(),
    Code::TooLarge.word(),
    Code::DiskLow.word(),
    Code::QueueFull.word(),
];

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::DiskLow => Self::DiskLow,
            Busy::QueueFull => Self::QueueFull,
            Busy::Stopping => Self::Stopping,
        }
    }
}

impl From<Refusal> for NotTaken<Refusal> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::Id => Code::IdTooLong,
            Self::Unreadable(_) => Code::Unreadable,
            Self::Busy { .. } => Code::Busy,
            Self::Empty => Code::Empty,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::DiskLow => Code::DiskLow,
            Self::QueueFull => Code::QueueFull,
            Self::Stopping => Code::Stopping,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Id => "send a shorter correlation data or `id`",
            Self::Unreadable(_) => {
                "send {\"from_seq\": N}, and if you like `id`, `to_seq` and `source`"
            }
            Self::Busy { .. } => "ask again when one has ended, or raise `results.replays_max`",
            Self::Empty => "send the bytes of the image file as they are",
            Self::TooLarge { .. } => "raise `mqtt.request_max_bytes`, or bring it another way",
            Self::DiskLow => "make room on the box, see `state.min_free_bytes`, and ask again",
            Self::QueueFull => "ask again later, or raise `pipeline.queue_max_jobs`",
            Self::Stopping => "ask again when it has started",
        }
    }

    fn said(&self) -> Refused {
        Refused {
            code: self.code(),
            words: self.to_string(),
            remedy: self.remedy(),
        }
    }
}

impl Response {
    pub(super) fn payload(&self) -> Vec<u8> {
        object(self).to_string().into_bytes()
    }

    /// No answer: the request waits for the next start.
    pub(super) fn is_stopping(&self) -> bool {
        self.code() == Some(Code::Stopping)
    }
}

impl Responder {
    /// Blocking: reads and writes outbox and spool.
    pub(super) fn answer(&self, verb: Verb, request: &Request) -> Result<Response, AcceptError> {
        let mut id = request.correlation().and_then(printable);
        let long = request
            .correlation()
            .is_some_and(|id| id.len() > ID_MAX_BYTES);
        let done = match verb {
            _ if long => Err(Refusal::Id.into()),
            Verb::Replay => self.replay(request.payload(), &mut id),
            Verb::Segment => self.segment(request),
        };
        let done = match done {
            Ok(fields) => Ok(fields),
            Err(not_done) => Err(not_done.refusal()?),
        };
        let (status, answer) = match done {
            Ok(answer) => (Outcome::Ok, answer),
            Err(refusal) => (Outcome::Error, Answer::Refused(refusal.said())),
        };
        let response = Response {
            schema: response::SCHEMA,
            verb,
            id,
            node: self.node.clone(),
            at: clock::now(),
            status,
            answer,
        };
        if let (Verb::Segment, Some(code), false) = (verb, response.code(), response.is_stopping())
        {
            let metrics = &self.intake.status.metrics;
            metrics.refused(MQTT_SOURCE, code.word());
        }
        Ok(response)
    }

    fn replay(&self, payload: &[u8], id: &mut Option<String>) -> Result<Answer, NotTaken<Refusal>> {
        let wish: ReplayRequest = serde_json::from_slice(payload).map_err(Refusal::Unreadable)?;
        if let Some(own) = wish.id {
            if own.len() > ID_MAX_BYTES {
                return Err(Refusal::Id.into());
            }
            *id = Some(own);
        }
        let range = ReplayRange {
            from_seq: wish.from_seq,
            to_seq: wish.to_seq,
            source: wish.source,
        };
        match self.intake.outbox.replay(&range)? {
            outbox::ReplayAnswer::Promised(summary) => Ok(Answer::Replay(summary)),
            outbox::ReplayAnswer::Busy { replays_max } => Err(Refusal::Busy { replays_max }.into()),
        }
    }

    /// As safe as a file of an inbox that was accepted, before anything is said.
    fn segment(&self, request: &Request) -> Result<Answer, NotTaken<Refusal>> {
        let (intake, image) = (&self.intake, request.payload());
        let sender = Sender {
            response_topic: request.response_topic.clone(),
            ..Sender::default()
        };
        if image.is_empty() {
            return Err(Refusal::Empty.into());
        }
        if image.len() as u64 > self.image_max_bytes {
            let (bytes, limit) = (image.len(), self.image_max_bytes);
            return Err(Refusal::TooLarge { bytes, limit }.into());
        }
        if intake.is_disk_low() {
            return Err(Refusal::DiskLow.into());
        }
        intake.queue_has_room()?;
        let incoming = intake.shelves.receive(MQTT_SOURCE, "request")?;
        let mut incoming = incoming.sent_by(sender);
        incoming.write(image)?;
        let job = intake.take::<Refusal>(incoming)?;
        Ok(Answer::Segment(Taken {
            job,
            input: Input::of(image),
            result: format!("result/{MQTT_SOURCE}"),
        }))
    }
}

/// For clients that see no properties.
fn printable(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let good = text.len() <= ID_MAX_BYTES && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use serde_json::Value;

    use super::*;
    use crate::outbox::job::Ticket;
    use crate::report::schema::Document;
    use crate::report::schema::tests::check;

    fn responder(folder: &std::path::Path) -> (Responder, mpsc::Receiver<Ticket>) {
        let (intake, queue) = Intake::of(folder, 1);
        let responder = Responder {
            node: "box-1".into(),
            image_max_bytes: 10,
            intake,
        };
        (responder, queue)
    }

    fn answer(
        responder: &Responder,
        verb: Verb,
        payload: &[u8],
        correlation: Option<&str>,
    ) -> Value {
        let request = Request::of(payload, correlation);
        let response = responder.answer(verb, &request).unwrap();
        let said = serde_json::from_slice(&response.payload()).unwrap();
        check(Document::Response, &said, "response");
        said
    }

    #[test]
    fn an_image_is_durable_before_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let (responder, mut queue) = responder(folder.path());
        let said = answer(&responder, Verb::Segment, b"pixels", Some("a-7"));
        assert_eq!(
            (&said["status"], &said["id"]),
            (&"ok".into(), &"a-7".into())
        );
        let sha256 = Input::of(b"pixels").sha256;
        assert_eq!(
            (&said["job"], &said["input"]["sha256"]),
            (&1.into(), &sha256.into())
        );
        let job = responder.intake.outbox.job(1).unwrap().unwrap();
        let input = std::fs::read(responder.intake.shelves.input(&job)).unwrap();
        assert_eq!((&*job.source, &*input), ("mqtt", &b"pixels"[..]));
        assert_eq!(queue.try_recv(), Ok(1));
    }

    #[test]
    fn what_is_not_done_is_said_with_a_remedy_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut responder, queue) = responder(folder.path());
        responder.intake.tickets.try_send(9).unwrap();
        let long = "i".repeat(ID_MAX_BYTES + 1);
        let (segment, replay) = (Verb::Segment, Verb::Replay);
        let cases: [(_, &[u8], _, _, _); 7] = [
            (segment, b"", None, "empty", "bytes of the image"),
            (
                segment,
                b"eleven bytes",
                None,
                "too_large",
                "mqtt.request_max_bytes",
            ),
            (
                segment,
                b"pixels",
                None,
                "queue_full",
                "pipeline.queue_max_jobs",
            ),
            (segment, b"pixels", Some(&*long), "id_too_long", "shorter"),
            (replay, b"pixels", None, "unreadable", "from_seq"),
            (
                replay,
                br#"{"from_seq":1,"from":2}"#,
                None,
                "unreadable",
                "from_seq",
            ),
            (replay, br#"{"to_seq":1}"#, None, "unreadable", "from_seq"),
        ];
        for (verb, payload, correlation, code, remedy) in cases {
            let said = answer(&responder, verb, payload, correlation);
            assert_eq!(
                (&said["status"], &said["code"]),
                (&"error".into(), &code.into())
            );
            let counted = u64::from(verb == segment);
            let metrics = &responder.intake.status.metrics;
            assert_eq!(metrics.refusals(MQTT_SOURCE, code), counted, "{code}");
            assert!(verb == replay || OF_IMAGES.contains(&code));
            assert!(said["remedy"].as_str().unwrap().contains(remedy), "{said}");
        }
        responder.intake.min_free_bytes = u64::MAX;
        let said = answer(&responder, segment, b"pixels", None);
        assert_eq!(said["code"], "disk_low");
        responder.intake.min_free_bytes = 0;
        drop(queue);
        let request = Request::of(b"pixels", None);
        assert!(responder.answer(segment, &request).unwrap().is_stopping());
        assert_eq!(responder.intake.outbox.ledger().unwrap().received, 0);
    }

    #[test]
    fn a_replay_says_what_comes_and_echoes_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let (responder, _queue) = responder(folder.path());
        let wish = br#"{"id":"gap-1","from_seq":3,"source":"ward"}"#;
        let said = answer(&responder, Verb::Replay, wish, Some("other"));
        assert_eq!(
            (&said["status"], &said["id"]),
            (&"ok".into(), &"gap-1".into())
        );
        assert_eq!(
            (&said["messages"], &said["kept"]),
            (&0.into(), &Value::Null)
        );
    }
}
