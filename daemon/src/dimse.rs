//! Command sets of DIMSE (PS3.7): group 0000 in implicit VR little endian.

pub(crate) const VERIFICATION: &str = "1.2.840.10008.1.1";

/// What the peer asks for or answers, as far as it matters here.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) field: u16,
    pub(crate) message_id: u16,
    pub(crate) has_data_set: bool,
    pub(crate) sop_class_uid: String,
    pub(crate) sop_instance_uid: String,
    /// Of a response.
    pub(crate) status: Option<u16>,
}

pub(crate) const C_STORE: u16 = 0x0001;
pub(crate) const C_ECHO: u16 = 0x0030;
pub(crate) const C_CANCEL: u16 = 0x0fff;
pub(crate) const IS_RESPONSE: u16 = 0x8000;
const NO_DATA_SET: u16 = 0x0101;
const DATA_SET: u16 = 0x0001;
const MEDIUM_PRIORITY: u16 = 0x0000;

/// Elements of group 0000.
mod element {
    pub(super) const GROUP_LENGTH: u16 = 0x0000;
    pub(super) const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
    pub(super) const COMMAND_FIELD: u16 = 0x0100;
    pub(super) const MESSAGE_ID: u16 = 0x0110;
    pub(super) const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
    pub(super) const PRIORITY: u16 = 0x0700;
    pub(super) const DATA_SET_TYPE: u16 = 0x0800;
    pub(super) const STATUS: u16 = 0x0900;
    pub(super) const ERROR_COMMENT: u16 = 0x0902;
    pub(super) const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
}

/// `None` when it is no command set, or one without what every request has.
pub(crate) fn parse(mut bytes: &[u8]) -> Option<Request> {
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
            element::STATUS => request.status = Some(number(value)?),
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
pub(crate) fn respond(request: &Request, status: u16, comment: &str) -> Vec<u8> {
    let field = request.field | IS_RESPONSE;
    let mut set = Set::default();
    set.text(element::AFFECTED_SOP_CLASS_UID, &request.sop_class_uid, 0);
    set.number(element::COMMAND_FIELD, field);
    set.number(element::MESSAGE_ID_RESPONDED_TO, request.message_id);
    set.number(element::DATA_SET_TYPE, NO_DATA_SET);
    set.number(element::STATUS, status);
    set.text(element::ERROR_COMMENT, comment, b' ');
    let instance = &request.sop_instance_uid;
    set.text(element::AFFECTED_SOP_INSTANCE_UID, instance, 0);
    set.finish()
}

/// The request to store an object.
pub(crate) fn store(message_id: u16, sop_class_uid: &str, sop_instance_uid: &str) -> Vec<u8> {
    let mut set = Set::default();
    set.text(element::AFFECTED_SOP_CLASS_UID, sop_class_uid, 0);
    set.number(element::COMMAND_FIELD, C_STORE);
    set.number(element::MESSAGE_ID, message_id);
    set.number(element::PRIORITY, MEDIUM_PRIORITY);
    set.number(element::DATA_SET_TYPE, DATA_SET);
    set.text(element::AFFECTED_SOP_INSTANCE_UID, sop_instance_uid, 0);
    set.finish()
}

/// The request to answer.
pub(crate) fn echo(message_id: u16) -> Vec<u8> {
    let mut set = Set::default();
    set.text(element::AFFECTED_SOP_CLASS_UID, VERIFICATION, 0);
    set.number(element::COMMAND_FIELD, C_ECHO);
    set.number(element::MESSAGE_ID, message_id);
    set.number(element::DATA_SET_TYPE, NO_DATA_SET);
    set.finish()
}

/// Elements of a command, in ascending order.
#[derive(Default)]
struct Set(Vec<u8>);

impl Set {
    /// Left out when empty.
    fn text(&mut self, element: u16, value: &str, pad: u8) {
        if !value.is_empty() {
            self.put(element, value.as_bytes(), pad);
        }
    }

    fn number(&mut self, element: u16, value: u16) {
        self.put(element, &value.to_le_bytes(), 0);
    }

    fn put(&mut self, element: u16, value: &[u8], pad: u8) {
        let padding = value.len() % 2;
        self.0.extend([0, 0]);
        self.0.extend(element.to_le_bytes());
        self.0
            .extend(((value.len() + padding) as u32).to_le_bytes());
        self.0.extend(value);
        self.0.extend(std::iter::repeat_n(pad, padding));
    }

    fn finish(mut self) -> Vec<u8> {
        let mut command = vec![0, 0];
        command.extend(element::GROUP_LENGTH.to_le_bytes());
        command.extend(4_u32.to_le_bytes());
        command.extend((self.0.len() as u32).to_le_bytes());
        command.append(&mut self.0);
        command
    }
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
            status: None,
        };
        let response = parse(&respond(&request, 0xa700, "no room")).unwrap();
        assert_eq!(response.field, 0x8001);
        assert!(!response.has_data_set);
        assert_eq!(response.status, Some(0xa700));
        assert!(response.sop_class_uid == request.sop_class_uid);
        assert!(response.sop_instance_uid == request.sop_instance_uid);
    }

    #[test]
    fn a_request_to_store_reads_back() {
        let request = parse(&store(7, "1.2.840", "2.25.17")).unwrap();
        assert_eq!((request.field, request.message_id), (C_STORE, 7));
        assert!(request.has_data_set && request.status.is_none());
        assert_eq!(request.sop_class_uid, "1.2.840");
        assert_eq!(request.sop_instance_uid, "2.25.17");
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
