//! Requests as bytes on the wire, and damaging them.

/// HTTP/1.1 with a length and without another request after it; an object is JSON unless the headers say otherwise.
pub fn http(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n").into_bytes();
    let json = body.starts_with(b"{") && headers.iter().all(|(name, _)| *name != "content-type");
    for (name, value) in headers.iter().chain(json.then_some(&("content-type", "application/json"))) {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
    bytes.extend(body);
    bytes
}

/// HTTP/2 without TLS: one request, nothing compressed.
pub fn http2(pseudo: &[(&str, &str)], headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let mut block = Vec::new();
    for (name, value) in pseudo.iter().chain(headers) {
        block.push(0);
        for text in [name, value] {
            // Integers of seven bits and more (RFC 7541, section 5.1).
            match text.len() {
                length @ ..127 => block.push(length as u8),
                length => {
                    block.push(127);
                    let mut rest = length - 127;
                    while rest >= 128 {
                        block.push((rest % 128 + 128) as u8);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend(text.bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &block));
    bytes.extend(frame(0, 1, 1, body));
    bytes
}

/// A gRPC call of `path` with one message.
pub fn grpc(path: &str, headers: &[(&str, &str)], message: &[u8]) -> Vec<u8> {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")];
    let headers = [&[("content-type", "application/grpc"), ("te", "trailers")][..], headers].concat();
    let body = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    http2(&pseudo, &headers, &body)
}

/// `bytes` with one to four places damaged.
pub fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.usize(1..=4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(..bytes.len());
        match rng.u8(..6) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = rng.u8(..),
            2 => bytes.truncate(at),
            3 => drop(bytes.remove(at)),
            4 => {
                let odd: &[u8] =
                    [&b"\r\n"[..], b"\x1b[2J", b"\0", b"\"", b"\\", b"\xff", b"\n2026 ERROR forged "]
                        [rng.usize(..7)];
                drop(bytes.splice(at..at, odd.iter().copied()));
            }
            _ => {
                let end = rng.usize(at..bytes.len().min(at + 64));
                let piece = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}

/// The first message of TLS 1.2, asking for the server `name`.
pub fn client_hello(name: &[u8]) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &with_length(body)].concat();
    let names = with_length(&[&[0][..], &with_length(name)].concat());
    let extensions = [
        extension(0, &names),
        extension(10, &with_length(&[0x00, 0x1d])),
        extension(13, &with_length(&[4, 3, 8, 4])),
    ]
    .concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &with_length(&[0xc0, 0x2b]), &[1, 0], &with_length(&extensions)]
        .concat();
    let message = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}
