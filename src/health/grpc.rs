//! `grpc.health.v1.Health/Check`: the call, and the answer to it.

use std::fmt;

/// The URI of the call.
pub const URI: &[u8] = b"/grpc.health.v1.Health/Check";
/// Its headers.
pub const HEADERS: [(&[u8], &[u8]); 2] =
    [(b"TE", b"trailers"), (b"Content-Type", b"application/grpc")];
/// The header, or trailer, with the status of a call.
pub const STATUS: &[u8] = b"grpc-status";

/// What the server says of the service.
const SERVING: u64 = 1;

/// Why an answer is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServing {
    /// It is no answer of gRPC's.
    Status(u16),
    /// The call has another status.
    GrpcStatus(u32),
    /// There is no status of the call.
    NoGrpcStatus,
    /// The message cannot be read.
    Message,
    /// What the server says of the service instead.
    Service(u64),
}

/// The body of the call: a message that names the service, if it has a name.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], length.as_slice(), &message].concat()
}

/// Whether the service is serving: by the status of the response, `grpc-status`, and the body;
/// `accepted` is a status of the call that is as good.
///
/// # Errors
///
/// Why it is not.
pub fn judge(
    status: u16,
    grpc_status: Option<&[u8]>,
    body: &[u8],
    accepted: Option<u32>,
) -> Result<(), NotServing> {
    if status != 200 {
        return Err(NotServing::Status(status));
    }
    let digits = grpc_status.filter(|text| text.iter().all(u8::is_ascii_digit));
    let code = digits.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let code = code.ok_or(NotServing::NoGrpcStatus)?;
    if accepted == Some(code) {
        return Ok(());
    }
    if code != 0 {
        return Err(NotServing::GrpcStatus(code));
    }
    match message(body).and_then(service_status).ok_or(NotServing::Message)? {
        SERVING => Ok(()),
        other => Err(NotServing::Service(other)),
    }
}

/// The one message of a body: not compressed, and whole.
fn message(body: &[u8]) -> Option<&[u8]> {
    let ([compressed, length @ ..], message) = body.split_first_chunk::<5>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (*compressed == 0 && message.len() == length).then_some(message)
}

/// Field 1 of the message; 0 if it is not there.
fn service_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl fmt::Display for NotServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::GrpcStatus(code) => write!(f, "grpc-status {code}"),
            Self::NoGrpcStatus => f.write_str("no grpc-status"),
            Self::Message => f.write_str("invalid message"),
            Self::Service(0) => f.write_str("service is UNKNOWN"),
            Self::Service(2) => f.write_str("service is NOT_SERVING"),
            Self::Service(3) => f.write_str("service is SERVICE_UNKNOWN"),
            Self::Service(other) => write!(f, "service is {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], length.as_slice(), message].concat()
    }

    #[test]
    fn the_call_names_the_service() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("a.B"), [0, 0, 0, 0, 5, 10, 3, b'a', b'.', b'B']);
        let long = "x".repeat(300);
        let call = request(&long);
        assert_eq!(call.get(..8).unwrap(), [0, 0, 0, 1, 47, 10, 0xac, 2]);
        assert_eq!(call.get(8..).unwrap(), long.as_bytes());
    }

    #[test]
    fn serving_passes_and_nothing_else() {
        let zero: Option<&[u8]> = Some(b"0");
        assert_eq!(judge(200, zero, &framed(&[8, 1]), None), Ok(()));
        for (message, why) in [
            (framed(&[]), "service is UNKNOWN"),
            (framed(&[8, 0]), "service is UNKNOWN"),
            (framed(&[8, 2]), "service is NOT_SERVING"),
            (framed(&[8, 3]), "service is SERVICE_UNKNOWN"),
            (framed(&[8, 0x81, 1]), "service is 129"),
            (framed(&[8]), "invalid message"),
            (framed(&[8, 0x80]), "invalid message"),
            (framed(&[0xff; 30]), "invalid message"),
            (framed(&[0x0f, 1]), "invalid message"),
            (vec![], "invalid message"),
            (vec![0, 0, 0, 0], "invalid message"),
            (vec![1, 0, 0, 0, 2, 8, 1], "invalid message"),
            (vec![0, 0, 0, 0, 3, 8, 1], "invalid message"),
            (vec![0, 0, 0, 0, 1, 8, 1], "invalid message"),
            (vec![0, 255, 255, 255, 255, 8, 1], "invalid message"),
        ] {
            let judged = judge(200, zero, &message, None).unwrap_err();
            assert_eq!(judged.to_string(), why, "{message:?}");
        }
    }

    #[test]
    fn fields_of_a_later_version_are_left_out() {
        let later = [16, 5, 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x22, 2, 8, 2, 0x2d, 1, 2, 3, 4, 8, 1];
        assert_eq!(judge(200, Some(b"0"), &framed(&later), None), Ok(()));
    }

    #[test]
    fn another_status_passes_if_it_is_asked_for() {
        assert_eq!(judge(200, Some(b"12"), b"", Some(12)), Ok(()));
        assert_eq!(judge(200, Some(b"14"), b"", Some(12)), Err(NotServing::GrpcStatus(14)));
        assert_eq!(judge(200, Some(b"12"), b"", None), Err(NotServing::GrpcStatus(12)));
        assert_eq!(judge(200, Some(b"0"), &framed(&[8, 1]), Some(12)), Ok(()));
        for none in [None, Some(b"".as_slice()), Some(b"x".as_slice()), Some(b"+1".as_slice())] {
            assert_eq!(judge(200, none, b"", Some(12)), Err(NotServing::NoGrpcStatus));
        }
        assert_eq!(judge(404, Some(b"12"), b"", Some(12)), Err(NotServing::Status(404)));
    }
}
