//! What subscribers ask for: `request/<verb>`, answered at `response/<verb>` or at the response topic that
//! the request names. Off unless `mqtt.requests` names the verb.
//!
//! A connection apart from the publisher's, with a session that outlives it, so that nothing of this
//! can hold up a result. One request at a time: it is done, answered, and only then acknowledged. What a
//! kill interrupts comes again from the broker, and then an image may be segmented twice, under the
//! same job id.

mod answer;
mod client;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use super::MqttError;
use crate::backoff::Backoff;
use crate::config::{Config, Verb, Version};
use crate::intake::Intake;
use crate::report::response::{Code, Response};
use crate::shutdown::stopped;

use answer::Responder;
use client::{Request, RequestConnection, RequestEvent};

/// Reasons for which the metrics count an image that was not taken.
pub(crate) fn refusal_reasons() -> impl Iterator<Item = &'static str> {
    answer::OF_IMAGES.into_iter()
}

/// Everything that an answer needs.
pub struct Requests {
    config: Arc<Config>,
    responder: Responder,
    /// Wakes the publisher.
    fresh: Arc<Notify>,
    backoff: Backoff,
    root: String,
    /// The last answer, for a request that the broker repeats.
    last: Option<AnsweredRequest>,
    /// The cause of the present outage that was logged last.
    outage: String,
}

struct AnsweredRequest {
    request: Request,
    response: Response,
    /// How often it was sent.
    tries: u32,
}

/// A longer response topic is not used: the response has to fit into the broker's packets.
const TOPIC_MAX_BYTES: usize = 1024;

/// The reason when a connection that works was given up.
const RECONNECT: &str = "requests were left at the broker";

impl Requests {
    pub fn new(config: &Config, intake: Intake, fresh: Arc<Notify>) -> Self {
        let mqtt = &config.mqtt;
        Self {
            config: Arc::new(config.clone()),
            backoff: Backoff::new(mqtt.backoff_min_ms, mqtt.backoff_max_ms),
            root: mqtt.root(&config.node),
            responder: Responder {
                node: config.node.clone(),
                image_max_bytes: mqtt.request_max_bytes,
                intake,
            },
            fresh,
            last: None,
            outage: String::new(),
        }
    }

    /// Answers until `stop`; without a verb there is nothing to do.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), MqttError> {
        if self.config.mqtt.requests.is_empty() {
            stopped(&mut stop).await;
            return Ok(());
        }
        loop {
            let began = Instant::now();
            let Some(error) = self.run_connection(&mut stop).await? else {
                return Ok(());
            };
            if began.elapsed() > Duration::from_millis(self.config.mqtt.backoff_max_ms) {
                self.backoff.reset();
            }
            if error == RECONNECT {
                tracing::debug!("more requests came than there is room for; the rest is fetched");
            } else if error != self.outage {
                tracing::warn!(error, "no connection to the broker for requests");
                self.outage = error;
            }
            tokio::select! {
                () = tokio::time::sleep(self.backoff.wait()) => {}
                () = stopped(&mut stop) => return Ok(()),
            }
        }
    }

    /// One connection; why it ended, or nothing when that was asked for.
    async fn run_connection(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<String>, MqttError> {
        let broker = self.responder.intake.credentials.borrow().mqtt.clone();
        // As the publisher: it finds out what the broker speaks.
        let mut known = self.responder.intake.status.mqtt_level();
        let level = tokio::select! {
            level = known.wait_for(Option::is_some) => level.ok().and_then(|level| *level),
            () = stopped(stop) => return Ok(None),
        };
        let level = level.unwrap_or(Version::Five);
        let mqtt = &self.config.mqtt;
        let mut connection = match RequestConnection::open(level, mqtt, &broker, &self.config.node)
        {
            Ok(connection) => connection,
            Err(error) => return Ok(Some(error.to_string())),
        };
        loop {
            let event = tokio::select! {
                event = connection.next() => event,
                () = stopped(stop) => {
                    connection.close().await;
                    return Ok(None);
                }
            };
            match event {
                RequestEvent::Connected => {
                    let verbs = self.config.mqtt.requests.iter();
                    let topics = verbs.map(|verb| format!("{}request/{verb}", self.root));
                    if !connection.subscribe(topics) {
                        return Ok(Some("the client takes no subscription".to_owned()));
                    }
                }
                RequestEvent::Subscribed(granted) => self.subscribed(granted),
                RequestEvent::Request(request) => {
                    if let Some(error) = self.serve(&mut connection, *request).await? {
                        return Ok(Some(error));
                    }
                }
                // Of a response that was given up.
                RequestEvent::ResponseAcked(_) => {}
                RequestEvent::Reconnect => {
                    connection.close().await;
                    self.backoff.reset();
                    return Ok(Some(RECONNECT.to_owned()));
                }
                RequestEvent::Lost(error) => return Ok(Some(error)),
            }
        }
    }

    /// Does what was asked, says so, and acknowledges. Why the connection is of no more use, if so.
    async fn serve(
        &mut self,
        connection: &mut RequestConnection,
        request: Request,
    ) -> Result<Option<String>, MqttError> {
        // A retained request would be done anew at every start.
        let Some(verb) = self.verb(&request).filter(|_| !request.retained) else {
            // Another session's subscription, or one of an earlier configuration.
            connection.acknowledge(&request);
            return Ok(None);
        };
        let answered = match self.last.take() {
            Some(last) if request.repeats(&last.request) => last,
            _ => {
                let (responder, copy) = (self.responder.clone(), request.clone());
                let response = spawn_blocking(move || responder.answer(verb, &copy)).await??;
                if response.is_stopping() {
                    // Unanswered it comes again at the next start.
                    return Ok(None);
                }
                let (code, job) = (response.code().map(Code::word), response.job());
                tracing::info!(%verb, code, job, "request answered");
                AnsweredRequest {
                    request: request.clone(),
                    response,
                    tries: 0,
                }
            }
        };
        let (tries, payload) = (answered.tries, answered.response.payload());
        self.last = Some(AnsweredRequest {
            tries: tries + 1,
            ..answered
        });
        let usual = format!("{}response/{verb}", self.root);
        // A topic of the requester's that breaks the connection is not used again.
        let wish = request.response_topic.as_deref().filter(|_| tries == 0);
        let topic = response_topic(&self.config.mqtt.base, usual, wish);
        if tries >= self.config.mqtt.strikes_max {
            tracing::error!(topic, "a response was given up");
            connection.acknowledge(&request);
            return Ok(None);
        }
        if !connection.respond(topic.clone(), payload, &request) {
            return Ok(Some("the client takes no response".to_owned()));
        }
        let ended = self.acknowledged(connection).await;
        match ended {
            Err(_) => {
                return Ok(Some(
                    "the broker does not acknowledge a response".to_owned(),
                ));
            }
            Ok(Err(error)) => return Ok(Some(error)),
            Ok(Ok(Some(reason))) => {
                tracing::error!(
                    topic,
                    reason,
                    "the broker refuses a response; allow this user to write there"
                );
            }
            Ok(Ok(None)) => {}
        }
        connection.acknowledge(&request);
        self.backoff.reset();
        if verb == Verb::Replay {
            self.fresh.notify_one();
        }
        Ok(None)
    }

    /// Waits for the broker's answer to a response, which may be a reason to refuse it.
    async fn acknowledged(
        &mut self,
        connection: &mut RequestConnection,
    ) -> Result<Result<Option<&'static str>, String>, Elapsed> {
        let grace_ms = self.config.pipeline.shutdown_grace_ms;
        let ack_timeout = Duration::from_millis(self.config.mqtt.ack_timeout_ms.min(grace_ms));
        let mut subscribed = None;
        let answered = async {
            loop {
                match connection.next_unless_request().await {
                    RequestEvent::ResponseAcked(reason) => return Ok(reason),
                    RequestEvent::Lost(error) => return Err(error),
                    // A session brings requests before the subscription is answered.
                    RequestEvent::Subscribed(granted) => subscribed = Some(granted),
                    _ => {}
                }
            }
        };
        let ended = timeout(ack_timeout, answered).await;
        if let Some(granted) = subscribed {
            self.subscribed(granted);
        }
        ended
    }

    fn subscribed(&mut self, granted: bool) {
        if granted {
            self.outage.clear();
            tracing::info!("requests are taken over MQTT");
        } else {
            tracing::error!(
                topic = format!("{}request/#", self.root),
                "the broker refuses the subscription to requests; allow this user to read there"
            );
        }
    }

    fn verb(&self, request: &Request) -> Option<Verb> {
        let word = request
            .topic
            .strip_prefix(&self.root)?
            .strip_prefix("request/")?;
        let mut verbs = self.config.mqtt.requests.iter().copied();
        verbs.find(|verb| verb.to_string() == word)
    }
}

/// Where the request wants its answer, unless another program would take it for something else: below
/// the base only this verb's own topic, and what is below that, can be named.
fn response_topic(base: &str, usual: String, wish: Option<&str>) -> String {
    let Some(wish) = wish else { return usual };
    let rest = wish.strip_prefix(&usual);
    let ours = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let elsewhere = wish.split('/').next() != Some(base) && !wish.starts_with(['$', '/']);
    let good = (1..=TOPIC_MAX_BYTES).contains(&wish.len()) && !wish.contains(['+', '#', '\0']);
    if good && (ours || elsewhere) {
        wish.to_owned()
    } else {
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_does_not_go_where_it_means_something_else() {
        const USUAL: &str = "scanside/v1/box-1/response/replay";
        let long = "a".repeat(TOPIC_MAX_BYTES + 1);
        for (wish, used) in [
            ("viewer/7/answers", true),
            (USUAL, true),
            ("scanside/v1/box-1/response/replay/viewer-7", true),
            ("scanside/v1/box-1/response/replays", false),
            ("scanside/v1/box-1/result/inbox", false),
            ("scanside/v1/box-2/availability", false),
            ("scanside", false),
            ("$SYS/broker", false),
            ("viewer/#", false),
            ("", false),
            (&long, false),
        ] {
            let topic = response_topic("scanside", USUAL.to_owned(), Some(wish));
            assert_eq!(topic == wish, used, "{wish}");
            assert!(used || topic == USUAL);
        }
        assert_eq!(response_topic("scanside", USUAL.to_owned(), None), USUAL);
    }
}
