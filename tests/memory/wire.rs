//! HTTP/1 by hand, so that a client can be as slow, as loud and as odd as it likes; and files to send.

use std::{
    io::{Cursor, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}: {}", self.head, String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn code(&self) -> String {
        let json = self.json();
        let said = json["error"]["code"].as_str().or(json["error"].as_str());
        said.unwrap_or_else(|| panic!("{json}")).to_owned()
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// A head that announces `length` bytes; `more` are whole lines.
pub(crate) fn head(path: &str, length: usize, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {length}\r\n\r\n")
}

/// Reads one answer, whatever becomes of the connection behind it.
pub(crate) fn answer(stream: &mut TcpStream) -> Answer {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed within {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Answer { status: head[9..12].parse().unwrap(), head, body }
}

/// Sends a whole request; what the server does not want to read any more is not sent.
pub(crate) fn post(address: SocketAddr, path: &str, more: &str, body: &[u8]) -> Answer {
    let mut stream = connect(address);
    stream.write_all(head(path, body.len(), more).as_bytes()).unwrap();
    let _may_be_refused_meanwhile = stream.write_all(body);
    answer(&mut stream)
}

pub(crate) const JSON: &str = "content-type: application/json\r\n";

/// A black PNG, with 16 bits a sample and alpha where `deep`: few bytes to send, many to decode.
pub(crate) fn black_png(width: u32, height: u32, deep: bool) -> Vec<u8> {
    let image = if deep {
        ::image::DynamicImage::new_rgba16(width, height)
    } else {
        ::image::DynamicImage::new_rgb8(width, height)
    };
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
