//! A broker that follows a script, for what a real one does only under another's load or rules.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// What becomes of a PUBLISH.
pub(crate) enum Answer {
    /// PUBACK with this reason code.
    Code(u8),
    Nothing,
    Close,
}

/// `rule` gets the number of the connection, from 1, and the topic. Gives the port.
pub(crate) fn start(rule: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rule = Arc::new(rule);
    thread::spawn(move || {
        for (number, stream) in (1..).zip(listener.incoming()) {
            let rule = Arc::clone(&rule);
            // The client may leave at any byte.
            thread::spawn(move || serve(stream?, |topic| rule(number, topic)));
        }
    });
    port
}

fn serve(mut stream: TcpStream, rule: impl Fn(&str) -> Answer) -> io::Result<()> {
    loop {
        let (header, body) = packet(&mut stream)?;
        match header >> 4 {
            // CONNACK without properties.
            1 => stream.write_all(&[0x20, 3, 0, 0, 0])?,
            3 => {
                let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = std::str::from_utf8(&body[2..end]).unwrap();
                if header & 0b110 == 0 {
                    continue;
                }
                match rule(topic) {
                    Answer::Code(code) => {
                        stream.write_all(&[0x40, 3, body[end], body[end + 1], code])?;
                    }
                    Answer::Nothing => {}
                    Answer::Close => return Ok(()),
                }
            }
            12 => stream.write_all(&[0xd0, 0])?,
            _ => return Ok(()),
        }
    }
}

/// Fixed header's first byte, and what follows the length.
pub(crate) fn packet(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
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
