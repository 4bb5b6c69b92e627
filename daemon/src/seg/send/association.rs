//! An association with the PACS, plain or in TLS: the one command that is under way, and its answer.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dicom_ul::association::client::TlsStream;
use dicom_ul::association::{self, ClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu, PresentationContextNegotiated};
use segmenter::seg;

use super::{Object, SendError};
use crate::config::SendTo;
use crate::dimse::{self, C_ECHO, C_STORE, IS_RESPONSE, VERIFICATION};
use crate::failure::chain;
use crate::tls::{self, Trust};

const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
/// The transfer syntax that every peer has to offer and to accept (PS3.5 section 10.1).
const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

/// The library has a type for each kind of stream.
enum Transport {
    Plain(ClientAssociation<TcpStream>),
    Tls(Box<ClientAssociation<TlsStream>>),
}

impl Transport {
    fn contexts(&self) -> &[PresentationContextNegotiated] {
        match self {
            Self::Plain(plain) => plain.presentation_contexts(),
            Self::Tls(tls) => tls.presentation_contexts(),
        }
    }

    fn send(&mut self, pdu: &Pdu) -> Result<(), association::Error> {
        match self {
            Self::Plain(plain) => plain.send(pdu),
            Self::Tls(tls) => tls.send(pdu),
        }
    }

    fn send_data(&mut self, context: u8, data_set: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(plain) => {
                let mut writer = plain.send_pdata(context);
                writer.write_all(data_set).and_then(|()| writer.finish())
            }
            Self::Tls(tls) => {
                let mut writer = tls.send_pdata(context);
                writer.write_all(data_set).and_then(|()| writer.finish())
            }
        }
    }

    fn receive(&mut self) -> Result<Pdu, association::Error> {
        match self {
            Self::Plain(plain) => plain.receive(),
            Self::Tls(tls) => tls.receive(),
        }
    }

    fn release(self) -> Result<(), association::Error> {
        match self {
            Self::Plain(plain) => plain.release(),
            Self::Tls(tls) => tls.release(),
        }
    }
}

pub(in crate::seg) struct Association {
    transport: Transport,
    context: u8,
    implicit: bool,
}

impl Association {
    /// To send segmentations.
    pub(in crate::seg) fn open(to: &SendTo, trust: Option<Arc<Trust>>) -> Result<Self, SendError> {
        Self::open_for(to, trust, seg::SOP_CLASS_UID)
    }

    fn open_for(
        to: &SendTo,
        trust: Option<Arc<Trust>>,
        abstract_syntax: &str,
    ) -> Result<Self, SendError> {
        let timeout = Duration::from_secs(to.timeout_s);
        let syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN].map(str::to_owned);
        let options = ClientAssociationOptions::new()
            .calling_ae_title(to.calling_ae_title.clone())
            .called_ae_title(to.called_ae_title.clone())
            .with_presentation_context(abstract_syntax.to_owned(), syntaxes.into())
            .connection_timeout(timeout)
            .read_timeout(timeout)
            .write_timeout(timeout);
        let address = (&*to.host, to.port);
        let transport = match trust {
            None => options.establish(address).map(Transport::Plain),
            Some(trust) => options
                .tls_config(trust)
                .server_name(&to.host)
                .establish_tls(address)
                .map(|transport| Transport::Tls(Box::new(transport))),
        };
        let transport = transport.map_err(|error| refusal(&error))?;
        let context = transport.contexts().first().ok_or(SendError::NotAccepted)?;
        Ok(Self {
            context: context.id,
            implicit: context.transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN,
            transport,
        })
    }

    pub(in crate::seg) fn close(self) {
        // It has what it was sent.
        let _ = self.transport.release();
    }

    /// The status that answers the object.
    pub(super) fn store(&mut self, object: &Object, message_id: u16) -> Result<u16, SendError> {
        let request = dimse::store(message_id, seg::SOP_CLASS_UID, &object.sop_instance_uid);
        self.ask(request)?;
        let data_set = object.data_set(self.implicit)?;
        self.transport
            .send_data(self.context, &data_set)
            .map_err(|error| SendError::Broken(error.to_string()))?;
        self.answer(C_STORE)
    }

    fn ask(&mut self, command: Vec<u8>) -> Result<(), SendError> {
        let value = PDataValue {
            presentation_context_id: self.context,
            value_type: PDataValueType::Command,
            is_last: true,
            data: command,
        };
        let pdu = Pdu::PData { data: vec![value] };
        self.transport
            .send(&pdu)
            .map_err(|error| SendError::Broken(error.to_string()))
    }

    /// The status that answers a command.
    fn answer(&mut self, field: u16) -> Result<u16, SendError> {
        /// A command set has a dozen short elements.
        const COMMAND_MAX_BYTES: usize = 16 * 1024;
        let mut bytes = Vec::new();
        loop {
            let pdu = self.transport.receive();
            let Pdu::PData { data } = pdu.map_err(|error| SendError::Broken(chain(&error)))? else {
                return Err(SendError::InvalidResponse);
            };
            for value in data {
                bytes.extend(value.data);
                if bytes.len() > COMMAND_MAX_BYTES {
                    return Err(SendError::InvalidResponse);
                }
                if value.is_last {
                    let answer = dimse::parse(&bytes).ok_or(SendError::InvalidResponse)?;
                    let status = answer
                        .status
                        .filter(|_| answer.field == field | IS_RESPONSE);
                    return status.ok_or(SendError::InvalidResponse);
                }
            }
        }
    }
}

/// Why there is no association.
fn refusal(error: &association::Error) -> SendError {
    if let Some(error) = tls::rustls_error(error) {
        return SendError::Tls(tls::words(error, "the PACS", "seg.send_to"));
    }
    match error {
        association::Error::NoAcceptedPresentationContexts { .. } => SendError::NotAccepted,
        error => SendError::Association(chain(error)),
    }
}

/// C-ECHO; gives the time to its answer.
pub(in crate::seg) fn echo(to: &SendTo, trust: Option<Arc<Trust>>) -> Result<Duration, SendError> {
    let mut association = Association::open_for(to, trust, VERIFICATION)?;
    let start = Instant::now();
    association.ask(dimse::echo(1))?;
    let status = association.answer(C_ECHO)?;
    association.close();
    if status == 0 {
        Ok(start.elapsed())
    } else {
        Err(SendError::InvalidResponse)
    }
}
