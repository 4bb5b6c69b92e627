//! Who may come in, and with what: A-ASSOCIATE-RQ to its answer (PS3.8 section 9.3).

use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason,
    AssociationRJServiceProviderPresentationReason, AssociationRJServiceUserReason,
    AssociationRJSource, AssociationRQ, PresentationContextProposed, PresentationContextResult,
    PresentationContextResultReason, UserVariableItem,
};
use segmenter::decode::storage::TRANSFER_SYNTAXES;

use super::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION};
use crate::config;
use crate::dimse::VERIFICATION;

const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Nearly every storage SOP class of the standard begins like this. What is no image is taken too and set aside later: a
/// PACS that sends a study on and is refused one of its objects fails the whole job, or tries for ever.
const STORAGE: &str = "1.2.840.10008.5.1.4.1.1.";
/// Those that do not: instructions for a treatment, hanging protocols, palettes, templates of implants.
const MORE_STORAGE: [&str; 8] = [
    "1.2.840.10008.5.1.4.34.1",
    "1.2.840.10008.5.1.4.34.7",
    "1.2.840.10008.5.1.4.34.10",
    "1.2.840.10008.5.1.4.38.1",
    "1.2.840.10008.5.1.4.39.1",
    "1.2.840.10008.5.1.4.43.1",
    "1.2.840.10008.5.1.4.44.1",
    "1.2.840.10008.5.1.4.45.1",
];
/// All classes of the standard; what begins otherwise is a vendor's own, often of images.
const STANDARD: &str = "1.2.840.10008.";
/// Has to stand in the answer where no transfer syntax was chosen; nobody reads it.
const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

/// What both sides agreed on for one presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) id: u8,
    pub(super) abstract_syntax: String,
    pub(super) transfer_syntax: String,
}

/// `full`: there is no place for another association.
pub(super) fn negotiate(
    request: &AssociationRQ,
    config: &config::Dicom,
    full: bool,
) -> Result<(AssociationAC, Vec<Context>), AssociationRJ> {
    admit(request, config, full)?;
    let mut contexts = Vec::new();
    let mut results = Vec::new();
    for proposed in &request.presentation_contexts {
        let chosen = choose(proposed);
        let (reason, transfer_syntax) = match &chosen {
            Ok(context) => (
                PresentationContextResultReason::Acceptance,
                context.transfer_syntax.clone(),
            ),
            Err(reason) => (reason.clone(), IMPLICIT_VR_LITTLE_ENDIAN.to_owned()),
        };
        results.push(PresentationContextResult {
            id: proposed.id,
            reason,
            transfer_syntax,
        });
        contexts.extend(chosen);
    }
    let answer = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: results,
        user_variables: vec![
            UserVariableItem::MaxLength(config.pdu_max_bytes),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.to_owned()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.to_owned()),
        ],
    };
    Ok((answer, contexts))
}

fn admit(request: &AssociationRQ, config: &config::Dicom, full: bool) -> Result<(), AssociationRJ> {
    use AssociationRJSource::{ServiceProviderASCE, ServiceProviderPresentation, ServiceUser};
    let permanent = |source| AssociationRJ {
        result: AssociationRJResult::Permanent,
        source,
    };
    if request.protocol_version & 1 == 0 {
        let reason = AssociationRJServiceProviderASCEReason::ProtocolVersionNotSupported;
        return Err(permanent(ServiceProviderASCE(reason)));
    }
    if bare(&request.application_context_name) != APPLICATION_CONTEXT {
        let reason = AssociationRJServiceUserReason::ApplicationContextNameNotSupported;
        return Err(permanent(ServiceUser(reason)));
    }
    if config.check_called_ae_title && bare(&request.called_ae_title) != config.ae_title {
        let reason = AssociationRJServiceUserReason::CalledAETitleNotRecognized;
        return Err(permanent(ServiceUser(reason)));
    }
    let calling = bare(&request.calling_ae_title);
    let allowed = &config.calling_ae_titles;
    if !allowed.is_empty() && !allowed.iter().any(|title| title == calling) {
        let reason = AssociationRJServiceUserReason::CallingAETitleNotRecognized;
        return Err(permanent(ServiceUser(reason)));
    }
    if full {
        let reason = AssociationRJServiceProviderPresentationReason::LocalLimitExceeded;
        return Err(AssociationRJ {
            result: AssociationRJResult::Transient,
            source: ServiceProviderPresentation(reason),
        });
    }
    Ok(())
}

/// The first transfer syntax of the sender's that the decoder reads: the order is its preference.
fn choose(
    proposed: &PresentationContextProposed,
) -> Result<Context, PresentationContextResultReason> {
    let abstract_syntax = bare(&proposed.abstract_syntax);
    if abstract_syntax != VERIFICATION && !is_storage(abstract_syntax) {
        return Err(PresentationContextResultReason::AbstractSyntaxNotSupported);
    }
    let transfer_syntax = proposed
        .transfer_syntaxes
        .iter()
        .map(|uid| bare(uid))
        .find(|uid| TRANSFER_SYNTAXES.contains(uid))
        .ok_or(PresentationContextResultReason::TransferSyntaxesNotSupported)?;
    Ok(Context {
        id: proposed.id,
        abstract_syntax: abstract_syntax.to_owned(),
        transfer_syntax: transfer_syntax.to_owned(),
    })
}

fn is_storage(uid: &str) -> bool {
    uid.starts_with(STORAGE) || MORE_STORAGE.contains(&uid) || !uid.starts_with(STANDARD)
}

/// Without the padding that some senders put.
fn bare(text: &str) -> &str {
    text.trim_matches(['\0', ' '])
}
