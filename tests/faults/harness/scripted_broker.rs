//! An MQTT 5 broker that follows a script, for what a real one does only under another load or with other rules.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// How the broker answers a PUBLISH.
pub(crate) enum Reply {
    /// PUBACK with this reason code.
    Puback(u8),
    Nothing,
    Close,
}

/// `reply` gets the number of the connection, from 1, and the topic. Gives the port.
pub(crate) fn start(reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let reply = Arc::new(reply);
    thread::spawn(move || {
        for (number, stream) in (1..).zip(listener.incoming()) {
            let reply = Arc::clone(&reply);
            // The client may disconnect at any byte.
            thread::spawn(move || serve(stream?, |topic| reply(number, topic)));
        }
    });
    port
}

/// A broker that accepts every message.
pub(crate) fn start_accepting() -> u16 {
    start(|_, _| Reply::Puback(0))
}

fn serve(mut stream: TcpStream, reply: impl Fn(&str) -> Reply) -> io::Result<()> {
    loop {
        let (header, body) = read_packet(&mut stream)?;
        match header >> 4 {
            // CONNECT is answered with a CONNACK without properties.
            1 => stream.write_all(&[0x20, 3, 0, 0, 0])?,
            3 => {
                let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = std::str::from_utf8(&body[2..end]).unwrap();
                let qos_0 = header & 0b110 == 0;
                if qos_0 {
                    continue;
                }
                match reply(topic) {
                    Reply::Puback(code) => {
                        stream.write_all(&[0x40, 3, body[end], body[end + 1], code])?;
                    }
                    Reply::Nothing => {}
                    Reply::Close => return Ok(()),
                }
            }
            // PINGREQ is answered with PINGRESP.
            12 => stream.write_all(&[0xd0, 0])?,
            _ => return Ok(()),
        }
    }
}

/// The first byte of the fixed header, and what follows the remaining length.
pub(crate) fn read_packet(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let header = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((header, body))
}
