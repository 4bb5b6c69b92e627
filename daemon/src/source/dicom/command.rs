//! Command sets of DIMSE (PS3.7): group 0000 in implicit VR little endian.

/// What the peer asks for, as far as it matters here.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) field: u16,
    pub(super) message_id: u16,
    pub(super) has_data_set: bool,
    pub(super) sop_class_uid: String,
    pub(super) sop_instance_uid: String,
}

pub(super) const C_STORE: u16 = 0x0001;
pub(super) const C_ECHO: u16 = 0x0030;
pub(super) const C_CANCEL: u16 = 0x0fff;
const IS_RESPONSE: u16 = 0x8000;
const NO_DATA_SET: u16 = 0x0101;

/// Elements of group 0000.
mod element {
    pub(super) const GROUP_LENGTH: u16 = 0x0000;
    pub(super) const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
    pub(super) const COMMAND_FIELD: u16 = 0x0100;
    pub(super) const MESSAGE_ID: u16 = 0x0110;
    pub(super) const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
    pub(super) const DATA_SET_TYPE: u16 = 0x0800;
    pub(super) const STATUS: u16 = 0x0900;
    pub(super) const ERROR_COMMENT: u16 = 0x0902;
    pub(super) const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
}

/// `None` when it is no command set, or one without what every request has.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Request> {
    let mut request = Request::default();
    let (mut field, mut message_id, mut data_set) = (None, None, None);
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_first_chunk::<8>()?;
        let [g0, g1, e0, e1, length @ ..] = *header;
        if [g0, g1] != [0, 0] {
            return None;
        }
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(length) as usize)?;
        bytes = rest;
        match u16::from_le_bytes([e0, e1]) {
            element::AFFECTED_SOP_CLASS_UID => request.sop_class_uid = text(value),
            element::AFFECTED_SOP_INSTANCE_UID => request.sop_instance_uid = text(value),
            element::COMMAND_FIELD => field = Some(number(value)?),
            element::MESSAGE_ID => message_id = Some(number(value)?),
            element::DATA_SET_TYPE => data_set = Some(number(value)?),
            _ => {}
        }
    }
    request.field = field?;
    // C-CANCEL has none.
    request.message_id = message_id.unwrap_or_default();
    request.has_data_set = data_set? != NO_DATA_SET;
    Some(request)
}

fn text(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.trim_matches(['\0', ' ']).to_owned()
}

fn number(value: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(value.try_into().ok()?))
}

/// The response to a request; `comment` is for the sender's log.
pub(super) fn respond(request: &Request, status: u16, comment: &str) -> Vec<u8> {
    let mut elements = Vec::new();
    let mut put = |element: u16, value: &[u8], pad: u8| {
        if value.is_empty() {
            return;
        }
        let padding = value.len() % 2;
        elements.extend([0, 0]);
        elements.extend(element.to_le_bytes());
        elements.extend(((value.len() + padding) as u32).to_le_bytes());
        elements.extend(value);
        elements.extend(std::iter::repeat_n(pad, padding));
    };
    let field = request.field | IS_RESPONSE;
    let class = request.sop_class_uid.as_bytes();
    put(element::AFFECTED_SOP_CLASS_UID, class, 0);
    put(element::COMMAND_FIELD, &field.to_le_bytes(), 0);
    let id = request.message_id.to_le_bytes();
    put(element::MESSAGE_ID_RESPONDED_TO, &id, 0);
    put(element::DATA_SET_TYPE, &NO_DATA_SET.to_le_bytes(), 0);
    put(element::STATUS, &status.to_le_bytes(), 0);
    put(element::ERROR_COMMENT, comment.as_bytes(), b' ');
    let instance = request.sop_instance_uid.as_bytes();
    put(element::AFFECTED_SOP_INSTANCE_UID, instance, 0);
    let mut command = vec![0, 0];
    command.extend(element::GROUP_LENGTH.to_le_bytes());
    command.extend(4_u32.to_le_bytes());
    command.extend((elements.len() as u32).to_le_bytes());
    command.append(&mut elements);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_reads_like_a_command() {
        let request = Request {
            field: C_STORE,
            message_id: 7,
            has_data_set: true,
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.4".into(),
            sop_instance_uid: "2.25.17".into(),
        };
        let response = parse(&respond(&request, 0xa700, "no room")).unwrap();
        assert_eq!(response.field, 0x8001);
        assert!(!response.has_data_set);
        assert!(response.sop_class_uid == request.sop_class_uid);
        assert!(response.sop_instance_uid == request.sop_instance_uid);
    }

    #[test]
    fn what_is_no_command_is_not_taken_for_one() {
        let good = respond(&Request::default(), 0, "");
        assert!(parse(&good).is_some());
        // The last element is the status, which only a response has.
        for end in 1..good.len() - 10 {
            assert!(parse(&good[..end]).is_none(), "{end}");
        }
        let huge = [0, 0, 2, 0, 0xff, 0xff, 0xff, 0xff, 0];
        for bytes in [&huge[..], b"GIF89a...", &[8, 0, 5, 0, 0, 0, 0, 0], b""] {
            assert!(parse(bytes).is_none(), "{bytes:?}");
        }
    }
}
