//! The MQTT packets that the demo's broker knows, for versions 3.1.1 (level 4) and 5.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Announced to version 5 clients, enforced for all.
pub(super) const PACKET_MAX_BYTES: u32 = 4 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Connect {
        level: u8,
        client: String,
        will: Option<Publish>,
    },
    Publish {
        publish: Publish,
        packet_id: Option<u16>,
    },
    Subscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect,
    /// PUBACK of a client, which needs no answer.
    Answer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads one packet; `level` is that of the connection, 0 before CONNECT.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), level: u8) -> io::Result<Packet> {
    let header = stream.read_u8().await?;
    let mut length = 0_u32;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await?;
        length |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if length > PACKET_MAX_BYTES {
        return Err(malformed("packet above the broker's limit"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    parse(header, &body, level)
}

fn parse(header: u8, body: &[u8], level: u8) -> io::Result<Packet> {
    let mut rest = Reader { rest: body };
    match header >> 4 {
        1 => connect(&mut rest),
        3 => {
            let topic = rest.text()?;
            let packet_id = match header >> 1 & 3 {
                0 => None,
                1 => Some(rest.u16()?),
                _ => return Err(malformed("the demo's broker knows no QoS 2")),
            };
            if level == 5 {
                rest.skip_properties()?;
            }
            let payload = rest.rest.to_vec();
            let publish = Publish {
                topic,
                payload,
                retain: header & 1 == 1,
            };
            Ok(Packet::Publish { publish, packet_id })
        }
        4 => Ok(Packet::Answer),
        kind @ (8 | 10) => {
            let packet_id = rest.u16()?;
            if level == 5 {
                rest.skip_properties()?;
            }
            let mut filters = Vec::new();
            while !rest.rest.is_empty() {
                filters.push(rest.text()?);
                if kind == 8 {
                    rest.u8()?;
                }
            }
            Ok(if kind == 8 {
                Packet::Subscribe { packet_id, filters }
            } else {
                Packet::Unsubscribe { packet_id, filters }
            })
        }
        12 => Ok(Packet::PingReq),
        14 => Ok(Packet::Disconnect),
        _ => Err(malformed("a packet the demo's broker does not know")),
    }
}

fn connect(rest: &mut Reader<'_>) -> io::Result<Packet> {
    if rest.text()? != "MQTT" {
        return Err(malformed("not MQTT"));
    }
    let level = rest.u8()?;
    let flags = rest.u8()?;
    rest.u16()?; // keep alive, which the demo does not enforce
    if level == 5 {
        rest.skip_properties()?;
    }
    let client = rest.text()?;
    let will = if flags & 0x04 == 0 {
        None
    } else {
        if level == 5 {
            rest.skip_properties()?;
        }
        let topic = rest.text()?;
        let payload = rest.bytes()?.to_vec();
        Some(Publish {
            topic,
            payload,
            retain: flags & 0x20 != 0,
        })
    };
    Ok(Packet::Connect {
        level,
        client,
        will,
    })
}

/// CONNACK that accepts; version 5 clients also learn the limits.
pub(super) fn connack(level: u8) -> Vec<u8> {
    let mut body = vec![0, 0];
    if level == 5 {
        let mut properties = vec![0x24, 1, 0x27]; // maximum QoS 1, maximum packet size
        properties.extend(PACKET_MAX_BYTES.to_be_bytes());
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    packet(0x20, &body)
}

/// CONNACK that refuses the protocol version.
pub(super) fn refused() -> Vec<u8> {
    packet(0x20, &[0, 0x84, 0])
}

pub(super) fn puback(packet_id: u16) -> Vec<u8> {
    packet(0x40, &packet_id.to_be_bytes())
}

/// SUBACK that grants QoS 0, UNSUBACK otherwise.
pub(super) fn suback(subscribe: bool, packet_id: u16, filters: usize, level: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    if subscribe || level == 5 {
        body.extend(vec![0; filters]);
    }
    packet(if subscribe { 0x90 } else { 0xb0 }, &body)
}

pub(super) fn pingresp() -> Vec<u8> {
    packet(0xd0, &[])
}

/// PUBLISH at QoS 0.
pub(super) fn publish(publish: &Publish, level: u8) -> Vec<u8> {
    let mut body = (publish.topic.len() as u16).to_be_bytes().to_vec();
    body.extend(publish.topic.as_bytes());
    if level == 5 {
        body.push(0);
    }
    body.extend(&publish.payload);
    packet(0x30 | u8::from(publish.retain), &body)
}

fn packet(header: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![header];
    let mut length = body.len();
    loop {
        let more = length > 0x7f;
        bytes.push((length & 0x7f) as u8 | u8::from(more) << 7);
        length >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| malformed("packet too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> io::Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let count = self.u16()?;
        self.take(count.into())
    }

    fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| malformed("text is not UTF-8"))
    }

    fn skip_properties(&mut self) -> io::Result<()> {
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        self.take(length).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes from the MQTT 3.1.1 and 5 specifications' packet layouts, written out by hand.
    #[tokio::test]
    async fn packets_of_both_versions() {
        let publish = |payload: &[u8]| Publish {
            topic: "a/b".into(),
            payload: payload.to_vec(),
            retain: true,
        };
        let cases: [(u8, &[u8], Packet); 5] = [
            (
                0,
                b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id",
                Packet::Connect {
                    level: 4,
                    client: "id".into(),
                    will: None,
                },
            ),
            (
                0,
                b"\x10\x17\x00\x04MQTT\x05\x26\x00\x3c\x00\x00\x01x\x00\x00\x03a/b\x00\x01w",
                Packet::Connect {
                    level: 5,
                    client: "x".into(),
                    will: Some(publish(b"w")),
                },
            ),
            (
                5,
                b"\x33\x0a\x00\x03a/b\x00\x07\x00hi",
                Packet::Publish {
                    publish: publish(b"hi"),
                    packet_id: Some(7),
                },
            ),
            (
                4,
                b"\x31\x07\x00\x03a/bhi",
                Packet::Publish {
                    publish: publish(b"hi"),
                    packet_id: None,
                },
            ),
            (
                4,
                b"\x82\x06\x00\x01\x00\x01#\x00",
                Packet::Subscribe {
                    packet_id: 1,
                    filters: vec!["#".into()],
                },
            ),
        ];
        for (level, bytes, expected) in cases {
            assert_eq!(read(&mut &*bytes, level).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn long_packets_and_nonsense() {
        let sent = Publish {
            topic: "t".into(),
            payload: vec![7; 300],
            retain: false,
        };
        let bytes = publish(&sent, 5);
        let read_back = read(&mut &*bytes, 5).await.unwrap();
        assert_eq!(
            read_back,
            Packet::Publish {
                publish: sent,
                packet_id: None
            }
        );
        for nonsense in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x10\x02\x00\x09",
            b"\x30\xff\xff\xff\x7f",
        ] {
            assert!(read(&mut &*nonsense, 0).await.is_err());
        }
    }
}
