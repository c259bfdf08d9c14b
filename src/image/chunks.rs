//! Integrity of a PNG's ancillary chunks. The decoder skips those whose checksum is wrong; here that refuses the file,
//! because bytes damaged on the way are not to be scored. Critical chunks are left to the decoder, which checks them.

use super::{DecodeError, Format};

/// Length and type before a chunk's data, checksum after it.
const FRAME: usize = 4 + 4 + 4;

/// A chunk whose checksum does not match its bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("checksum of chunk {kind:?} is wrong")]
struct ChecksumError {
    /// The chunk's type, lossily.
    kind: String,
}

/// Checks the ancillary chunks up to the first that is cut short; that one is the decoder's to report.
pub(super) fn check(png: &[u8]) -> Result<(), DecodeError> {
    const SIGNATURE: usize = 8;
    let table = crc_table();
    let mut rest = png.get(SIGNATURE..).unwrap_or_default();
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((chunk, after)) = rest.split_at_checked(length.saturating_add(FRAME)) else { break };
        let (covered, checksum) = chunk[4..].split_last_chunk::<4>().expect("bug: a chunk without its frame");
        let kind = &covered[..4];
        if kind[0].is_ascii_lowercase() && crc(&table, covered) != u32::from_be_bytes(*checksum) {
            let kind = String::from_utf8_lossy(kind).into_owned();
            return Err(DecodeError::corrupt(Format::Png, ChecksumError { kind }));
        }
        rest = after;
    }
    Ok(())
}

/// CRC-32 of ISO 3309, as PNG's Annex D computes it.
pub(super) fn crc(table: &[u32; 256], bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| table[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8))
}

pub(super) fn crc_table() -> [u32; 256] {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| if crc & 1 == 1 { POLYNOMIAL ^ (crc >> 1) } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc(&crc_table(), b"123456789"), 0xcbf4_3926);
    }

    fn png(kind: &[u8; 4], damage: u8) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x02".to_vec();
        file.extend(kind);
        file.extend([1, 2]);
        let checksum = crc(&crc_table(), &file[12..]);
        file.extend(checksum.to_be_bytes());
        file[16] ^= damage;
        file
    }

    #[test]
    fn only_damaged_ancillary_chunks_are_refused() {
        assert!(check(&png(b"tEXt", 0)).is_ok());
        assert!(check(&png(b"IDAT", 1)).is_ok());
        assert!(matches!(check(&png(b"tEXt", 1)), Err(DecodeError::Corrupt { format: Format::Png, .. })));
        for cut in 0..png(b"tEXt", 0).len() {
            assert!(check(&png(b"tEXt", 1)[..cut]).is_ok());
        }
    }
}
