//! A CONNECT of MQTT 5 by hand, without a will, to see how the broker answers: one without MQTT 5 refuses
//! in four bytes of 3.1.1's form, which the client library cannot read, or closes, or says nothing.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Login, login};
use crate::config;
use crate::tls;
use crate::tls::credentials::Broker;

/// How a broker answers to MQTT 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mqtt) enum VersionReply {
    /// In MQTT 5, whatever it says.
    Five,
    /// In the form of 3.1.1.
    Three,
    /// It closed the connection without an answer, or answered something else.
    Closed,
    NoReply,
    /// This port speaks TLS, and was spoken to in plain.
    Tls,
    /// This port speaks HTTP: MQTT over WebSocket, or something else.
    Http,
    /// It was not reached at all.
    NotReached,
}

const CONNACK: u8 = 0x20;
/// A CONNACK of MQTT 5 has at least the length of its properties more.
const THREE_CONNACK_LENGTH: u8 = 2;
const DISCONNECT: [u8; 2] = [0xe0, 0];
/// First byte of a TLS record that carries an alert.
const TLS_ALERT: u8 = 0x15;

/// Under a name of its own, so that it ends no other connection of this node. No node has an underscore
/// in its name.
pub(in crate::mqtt) async fn probe_version(
    mqtt: &config::Mqtt,
    broker: &Broker,
    node: &str,
) -> VersionReply {
    let Ok(login) = login(broker) else {
        // The next attempt to connect says which file cannot be read.
        return VersionReply::NotReached;
    };
    let connect = connect_packet(&format!("{node}_level"), login.as_ref());
    let connect_timeout = Duration::from_secs(mqtt.connect_timeout_s);
    let reached = timeout(
        connect_timeout,
        TcpStream::connect((&*mqtt.host, mqtt.port)),
    )
    .await;
    let Ok(Ok(stream)) = reached else {
        return VersionReply::NotReached;
    };
    let answered = async {
        match &broker.tls {
            None => ask(stream, &connect).await,
            Some(tls) => {
                let Ok(name) = ServerName::try_from(mqtt.host.clone()) else {
                    return VersionReply::NotReached;
                };
                let connector = TlsConnector::from(Arc::clone(tls));
                match connector.connect(name, stream).await {
                    Ok(stream) => ask(stream, &connect).await,
                    Err(_) => VersionReply::NotReached,
                }
            }
        }
    };
    let reply = timeout(connect_timeout, answered)
        .await
        .unwrap_or(VersionReply::NoReply);
    // Most servers end a plain connection at such a port without a word.
    if reply == VersionReply::Closed && broker.tls.is_none() && speaks_tls(mqtt).await {
        return VersionReply::Tls;
    }
    reply
}

/// Whether the port answers to TLS.
async fn speaks_tls(mqtt: &config::Mqtt) -> bool {
    const TLS_HANDSHAKE: u8 = 0x16;
    const TLS_REPLY_TIMEOUT: Duration = Duration::from_secs(1);
    let Some(hello) = tls::client_hello(&mqtt.host) else {
        return false;
    };
    let answered = async {
        let mut stream = TcpStream::connect((&*mqtt.host, mqtt.port)).await?;
        stream.write_all(&hello).await?;
        let mut begins = [0; 2];
        stream.read_exact(&mut begins).await?;
        Ok::<_, std::io::Error>(matches!(begins, [TLS_HANDSHAKE | TLS_ALERT, 3]))
    };
    matches!(timeout(TLS_REPLY_TIMEOUT, answered).await, Ok(Ok(true)))
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, connect: &[u8]) -> VersionReply {
    let mut begins = [0; 2];
    if stream.write_all(connect).await.is_err()
        || stream.flush().await.is_err()
        || stream.read_exact(&mut begins).await.is_err()
    {
        return VersionReply::Closed;
    }
    let reply = read(begins);
    if reply == VersionReply::Five {
        // It may be gone already.
        let _ = stream.write_all(&DISCONNECT).await;
        let _ = stream.shutdown().await;
    }
    reply
}

/// By the first two bytes.
fn read(begins: [u8; 2]) -> VersionReply {
    match begins {
        [CONNACK, THREE_CONNACK_LENGTH] => VersionReply::Three,
        [CONNACK, 3..=255] => VersionReply::Five,
        [TLS_ALERT, 3] => VersionReply::Tls,
        [b'H', b'T'] => VersionReply::Http,
        _ => VersionReply::Closed,
    }
}

fn connect_packet(name: &str, login: Option<&Login>) -> Vec<u8> {
    const CLEAN_START: u8 = 0x02;
    const USER_AND_PASSWORD: u8 = 0xc0;
    const KEEP_ALIVE_S: u16 = 30;
    let flags = CLEAN_START | login.map_or(0, |_| USER_AND_PASSWORD);
    let mut body = string("MQTT");
    body.extend([5, flags]);
    body.extend(KEEP_ALIVE_S.to_be_bytes());
    // No properties.
    body.push(0);
    body.extend(string(name));
    if let Some((user, password)) = login {
        body.extend(string(user));
        body.extend(string(password));
    }
    let mut packet = vec![0x10];
    let mut rest = body.len();
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// With its length before it; what is longer than a length can say is cut, and will not be believed.
fn string(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bytes_tell_the_version() {
        for (begins, reply) in [
            ([0x20, 2], VersionReply::Three),
            ([0x20, 3], VersionReply::Five),
            ([0x20, 0x0b], VersionReply::Five),
            ([0x15, 3], VersionReply::Tls),
            (*b"HT", VersionReply::Http),
            (*b"SS", VersionReply::Closed),
        ] {
            assert_eq!(read(begins), reply, "{begins:?}");
        }
    }

    #[test]
    fn the_packet_is_that_of_the_specification() {
        let expected = b"\x10\x13\0\x04MQTT\x05\x02\0\x1e\0\0\x06box-1_";
        let packet = connect_packet("box-1_", None);
        assert_eq!(packet, expected);
        let login = ("u".to_owned(), "p".repeat(200));
        let packet = connect_packet("n", Some(&login));
        let length = 10 + 1 + 3 + 3 + 202;
        assert_eq!(packet[1..3], [(length % 128) as u8 | 0x80, 1]);
        assert_eq!(packet.len(), 3 + length);
        assert_eq!(packet[10], 0xc2);
    }
}
