//! One association from its request to its release: messages out of PDUs, C-ECHO and C-STORE answered.

use std::io;
use std::mem;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use dicom_ul::pdu::{AssociationRJ, AssociationRQ, PDataValue, PDataValueType, Pdu};

use super::Scp;
use super::negotiate::{Context, negotiate};
use super::object::{Object, Refusal, SUCCESS, UNRECOGNIZED_OPERATION};
use super::pdu::{AssociationError, PduConnection};
use super::transport::Transport;
use crate::dimse::{self, C_CANCEL, C_ECHO, C_STORE, Request};
use crate::intake::NotTaken;
use crate::outbox::job::{JobNumber, Sender};
use crate::spool::AcceptError;

/// A peer that connected says within this time who it is (ARTIM of PS3.8).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A command set has a dozen short elements.
const COMMAND_MAX_BYTES: usize = 16 * 1024;

/// For metrics, as a refusal's code: an association that was not accepted.
pub(super) const REJECTED: &str = "association";
/// And one whose TLS failed.
pub(super) const NO_TLS: &str = "tls";

/// Serves one connection to its end. `full`: the peer is told that there is no place.
pub(super) fn serve(scp: &Scp, stream: TcpStream, full: bool) {
    let config = &scp.config;
    let peer = stream
        .peer_addr()
        .map(|address| address.ip().to_canonical());
    let mut connection = match open(scp, stream) {
        Ok(connection) => connection,
        Err(error) => return tracing::warn!(source = config.name, %error, "connection is no good"),
    };
    let request = match connection.receive(REQUEST_TIMEOUT, false) {
        Ok(Pdu::AssociationRQ(request)) => request,
        // Port probes of a network monitor, too.
        Err(AssociationError::Closed) => return,
        Ok(_) => {
            return abort(
                scp,
                &mut connection,
                None,
                &AssociationError::Protocol("no request to associate"),
            );
        }
        Err(error) => return abort(scp, &mut connection, None, &error),
    };
    let calling = printable(&request.calling_ae_title);
    let (answer, contexts) = match negotiate(&request, config, full) {
        Ok(agreed) => agreed,
        Err(rejection) => return reject(scp, &mut connection, &request, rejection),
    };
    let (proposed, accepted) = (request.presentation_contexts.len(), contexts.len());
    tracing::debug!(
        source = config.name,
        calling,
        proposed,
        accepted,
        "associated"
    );
    if accepted == 0 {
        let why = "it offers no image class in a transfer syntax that is read here";
        tracing::warn!(
            source = config.name,
            calling,
            why,
            "sender can deliver nothing"
        );
    }
    let sender = sender(&calling, peer.ok());
    let mut association = Association {
        scp,
        calling,
        sender,
        contexts,
        message: Message::None,
        stored: Vec::new(),
        refused: 0,
    };
    let ended = connection
        .send(&Pdu::AssociationAC(answer))
        .and_then(|()| association.run(&mut connection));
    association.end(ended, &mut connection);
}

/// In TLS where the port has a certificate.
fn open(scp: &Scp, stream: TcpStream) -> io::Result<PduConnection> {
    let config = &scp.config;
    let credentials = scp.intake.credentials.borrow();
    let tls = credentials.dicom.get(&config.name).cloned();
    drop(credentials);
    let transport = Transport::new(stream, tls)?;
    PduConnection::new(transport, config.pdu_max_bytes, scp.stop.clone(), scp.grace)
}

fn sender(calling: &str, address: Option<IpAddr>) -> Sender {
    Sender {
        ae_title: Some(calling.to_owned()),
        address,
        response_topic: None,
    }
}

fn abort(
    scp: &Scp,
    connection: &mut PduConnection,
    calling: Option<&str>,
    error: &AssociationError,
) {
    let (source, why) = (&scp.config.name, error);
    if matches!(error, AssociationError::Stopping) {
        tracing::info!(source, calling, "association ended, scansided stops");
    } else {
        tracing::warn!(source, calling, %why, "association broken off");
        if let AssociationError::Tls(_) = error {
            scp.intake.status.metrics.refused(source, NO_TLS);
        }
    }
    if let Some(pdu) = error.abort() {
        // The peer may be gone.
        let _ = connection.send(&pdu);
    }
}

fn reject(
    scp: &Scp,
    connection: &mut PduConnection,
    request: &AssociationRQ,
    rejection: AssociationRJ,
) {
    let calling = printable(&request.calling_ae_title);
    let called = printable(&request.called_ae_title);
    let (source, why) = (&scp.config.name, &rejection.source);
    let metrics = &scp.intake.status.metrics;
    metrics.refused(source, REJECTED);
    tracing::warn!(source, calling, called, %why, "association rejected");
    // The peer may be gone.
    let _ = connection.send(&Pdu::AssociationRJ(rejection));
}

/// For logs and files.
fn printable(title: &str) -> String {
    let replace = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
    title
        .trim_matches(['\0', ' '])
        .chars()
        .map(replace)
        .collect()
}

struct Association<'a> {
    scp: &'a Scp,
    calling: String,
    sender: Sender,
    contexts: Vec<Context>,
    message: Message,
    stored: Vec<JobNumber>,
    refused: u64,
}

/// How much of a message has come.
enum Message {
    None,
    Command(u8, Vec<u8>),
    /// Data set of a request, to be stored or to be dropped.
    Data(u8, Request, Option<Box<Object>>),
}

impl Association<'_> {
    fn run(&mut self, connection: &mut PduConnection) -> Result<(), AssociationError> {
        let patience = Duration::from_secs(self.scp.config.idle_timeout_s);
        loop {
            let under_way = !matches!(self.message, Message::None);
            match connection.receive(patience, under_way)? {
                Pdu::PData { data } => {
                    for value in data {
                        if let Some(answer) = self.take(value)? {
                            connection.send(&answer)?;
                        }
                    }
                }
                Pdu::ReleaseRQ if under_way => {
                    return Err(AssociationError::Protocol(
                        "a release in the middle of a message",
                    ));
                }
                Pdu::ReleaseRQ => return connection.send(&Pdu::ReleaseRP),
                Pdu::AbortRQ { .. } => return Err(AssociationError::Aborted),
                _ => {
                    return Err(AssociationError::Protocol(
                        "a PDU that does not belong here",
                    ));
                }
            }
        }
    }

    /// Says what came of it, and tells that its images are complete where it was released.
    fn end(self, ended: Result<(), AssociationError>, connection: &mut PduConnection) {
        let Association {
            scp,
            stored,
            refused,
            calling,
            sender,
            message,
            ..
        } = self;
        let n_stored = stored.len() as u64;
        if let (Ok(()), Some(releases)) = (&ended, &scp.intake.releases) {
            releases.tell(stored);
        }
        if let Err(error) = ended {
            let cut = matches!(message, Message::Data(..));
            if cut {
                tracing::warn!(
                    source = scp.config.name,
                    calling,
                    "object cut off, nothing of it is kept"
                );
            }
            abort(scp, connection, Some(&calling), &error);
        }
        if n_stored + refused > 0 {
            tracing::info!(
                source = scp.config.name,
                calling,
                peer = sender.address.map(tracing::field::display),
                stored = n_stored,
                refused,
                "association ended"
            );
        }
    }

    /// One fragment; the answer once the message is complete.
    fn take(&mut self, value: PDataValue) -> Result<Option<Pdu>, AssociationError> {
        let id = value.presentation_context_id;
        let is_command = value.value_type == PDataValueType::Command;
        match mem::replace(&mut self.message, Message::None) {
            Message::None if is_command => self.command(value, Vec::new()),
            Message::Command(begun, bytes) if is_command && begun == id => {
                self.command(value, bytes)
            }
            Message::Data(begun, request, object) if !is_command && begun == id => {
                self.data(&value, request, object)
            }
            other => {
                self.message = other;
                Err(AssociationError::Protocol(
                    "fragments of messages are mixed up",
                ))
            }
        }
    }

    fn command(
        &mut self,
        value: PDataValue,
        mut bytes: Vec<u8>,
    ) -> Result<Option<Pdu>, AssociationError> {
        let id = value.presentation_context_id;
        bytes.extend(value.data);
        if bytes.len() > COMMAND_MAX_BYTES {
            return Err(AssociationError::Protocol("a command without end"));
        }
        if !value.is_last {
            self.message = Message::Command(id, bytes);
            return Ok(None);
        }
        let request =
            dimse::parse(&bytes).ok_or(AssociationError::Protocol("a command that is none"))?;
        let context = self.contexts.iter().find(|context| context.id == id);
        let context = context.ok_or(AssociationError::Protocol(
            "a context that was not agreed on",
        ))?;
        let scp = self.scp;
        let object = match request.field {
            C_STORE => Some(Object::begin(scp, &request, context, &self.sender)),
            _ => None,
        };
        let object = object.transpose().map_err(|error| scp.fail(error))?;
        if request.has_data_set {
            self.message = Message::Data(id, request, object.map(Box::new));
            return Ok(None);
        }
        self.answer(id, &request, object)
    }

    fn data(
        &mut self,
        value: &PDataValue,
        request: Request,
        mut object: Option<Box<Object>>,
    ) -> Result<Option<Pdu>, AssociationError> {
        if let Some(object) = &mut object {
            let written = object.write(self.scp, &value.data);
            written.map_err(|error| self.scp.fail(error))?;
        }
        let id = value.presentation_context_id;
        if value.is_last {
            return self.answer(id, &request, object.map(|object| *object));
        }
        self.message = Message::Data(id, request, object);
        Ok(None)
    }

    fn answer(
        &mut self,
        id: u8,
        request: &Request,
        object: Option<Object>,
    ) -> Result<Option<Pdu>, AssociationError> {
        let (status, comment) = match (request.field, object) {
            (_, Some(object)) => self.count(object.finish(self.scp))?,
            (C_ECHO, None) => (SUCCESS, String::new()),
            (C_CANCEL, None) => return Ok(None),
            (_, None) => (UNRECOGNIZED_OPERATION, String::new()),
        };
        let value = PDataValue {
            presentation_context_id: id,
            value_type: PDataValueType::Command,
            is_last: true,
            data: dimse::respond(request, status, &comment),
        };
        Ok(Some(Pdu::PData { data: vec![value] }))
    }

    fn count(
        &mut self,
        finished: Result<JobNumber, NotTaken<Refusal>>,
    ) -> Result<(u16, String), AssociationError> {
        let refusal = match finished {
            Ok(job_number) => {
                self.stored.push(job_number);
                return Ok((SUCCESS, String::new()));
            }
            Err(NotTaken::Refused(refusal)) => refusal,
            Err(NotTaken::Failed(error)) => return Err(self.scp.fail(error)),
        };
        self.refused += 1;
        let metrics = &self.scp.intake.status.metrics;
        metrics.refused(&self.scp.config.name, refusal.code());
        // Once for an association: a study has hundreds of objects.
        if self.refused == 1 {
            let (source, calling) = (&self.scp.config.name, &self.calling);
            let status = format!("{:04X}H", refusal.status());
            tracing::warn!(source, calling, status, why = %refusal, "object refused");
        }
        Ok((refusal.status(), refusal.to_string()))
    }
}

impl Scp {
    /// The daemon cannot keep its promise any more and ends.
    fn fail(&self, error: AcceptError) -> AssociationError {
        // Full: somebody else said so already.
        let _ = self.failed.try_send(error);
        AssociationError::Box
    }
}
