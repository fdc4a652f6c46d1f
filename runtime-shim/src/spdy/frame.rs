//! Frames (SPDY/3.1, §2.2).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{
    SpdyError,
    headers::{Deflate, Headers, Inflate},
};

/// Even ones are the server's, which opens none.
pub(super) type StreamId = u32;

/// The bytes before every frame's payload.
pub(super) const HEAD: usize = 8;
/// The longest control frame that is read.
pub(super) const MAX_CONTROL: usize = 16 << 10;

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

/// Why a stream is reset (§2.6.3).
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const INVALID_STREAM: u32 = 2;
pub(super) const REFUSED_STREAM: u32 = 3;
pub(super) const CANCEL: u32 = 5;

const SETTING_INITIAL_WINDOW: u32 = 7;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: StreamId,
        fin: bool,
        /// Answers are not expected.
        one_way: bool,
        headers: Headers,
    },
    SynReply {
        id: StreamId,
        fin: bool,
        headers: Headers,
    },
    Reset {
        id: StreamId,
        status: u32,
    },
    /// Those of them that matter here.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last: StreamId,
    },
    Headers {
        id: StreamId,
        fin: bool,
        headers: Headers,
    },
    /// Of a stream, or with 0 of the connection.
    WindowUpdate {
        id: StreamId,
        delta: u32,
    },
    Data {
        id: StreamId,
        fin: bool,
        data: Bytes,
    },
}

/// What the first bytes of a frame tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Data { id: StreamId, fin: bool, length: usize },
    Control { kind: u16, flags: u8, length: usize },
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD]) -> Result<Self, SpdyError> {
        let mut bytes = &bytes[..];
        let (first, second) = (bytes.get_u32(), bytes.get_u32());
        let flags = second.to_be_bytes()[0];
        let length = (second & 0x00ff_ffff) as usize;
        if first & CONTROL == 0 {
            return Ok(Self::Data {
                id: first,
                fin: flags & FIN != 0,
                length,
            });
        }
        if (first & !CONTROL) >> 16 != u32::from(VERSION) {
            return Err(SpdyError::Protocol("a frame of another version"));
        }
        if length > MAX_CONTROL {
            return Err(SpdyError::Protocol("a control frame of more than 16 KiB"));
        }
        let kind = u16::try_from(first & 0xffff).unwrap_or_default();
        Ok(Self::Control { kind, flags, length })
    }
}

impl Frame {
    /// Reads a control frame; none for a kind that is unknown or of no concern.
    pub(super) fn parse(
        kind: u16,
        flags: u8,
        payload: &[u8],
        inflate: &mut Inflate,
    ) -> Result<Option<Self>, SpdyError> {
        let mut rest = payload;
        let mut word = || {
            rest.try_get_u32()
                .map_err(|_| SpdyError::Protocol("a control frame that is cut off"))
        };
        let fin = flags & FIN != 0;
        Ok(Some(match kind {
            1 => {
                let id = word()? & !CONTROL;
                word()?;
                // Priority and credential slot.
                if rest.try_get_u16().is_err() {
                    return Err(SpdyError::Protocol("a control frame that is cut off"));
                }
                Self::SynStream {
                    id,
                    fin,
                    one_way: flags & UNIDIRECTIONAL != 0,
                    headers: inflate.read(rest)?,
                }
            }
            2 => Self::SynReply {
                id: word()? & !CONTROL,
                fin,
                headers: inflate.read(rest)?,
            },
            3 => Self::Reset {
                id: word()? & !CONTROL,
                status: word()?,
            },
            4 => {
                let mut initial_window = None;
                for _ in 0..word()? {
                    // Above the number are the flags.
                    let (number, value) = (word()? & 0x00ff_ffff, word()?);
                    if number == SETTING_INITIAL_WINDOW {
                        initial_window = Some(value);
                    }
                }
                Self::Settings { initial_window }
            }
            6 => Self::Ping(word()?),
            7 => Self::GoAway {
                last: word()? & !CONTROL,
            },
            8 => Self::Headers {
                id: word()? & !CONTROL,
                fin,
                headers: inflate.read(rest)?,
            },
            9 => Self::WindowUpdate {
                id: word()? & !CONTROL,
                delta: word()? & !CONTROL,
            },
            _ => return Ok(None),
        }))
    }

    pub(super) fn encode(&self, deflate: &mut Deflate, out: &mut BytesMut) {
        let fin = |fin: bool| if fin { FIN } else { 0 };
        match self {
            Self::SynStream {
                id,
                fin: is_last,
                one_way,
                headers,
            } => {
                let block = deflate.write(headers);
                let one_way = if *one_way { UNIDIRECTIONAL } else { 0 };
                control(1, fin(*is_last) | one_way, 10 + block.len(), out);
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Self::SynReply {
                id,
                fin: is_last,
                headers,
            } => headers_frame(2, *id, fin(*is_last), headers, deflate, out),
            Self::Headers {
                id,
                fin: is_last,
                headers,
            } => headers_frame(8, *id, fin(*is_last), headers, deflate, out),
            Self::Reset { id, status } => words(3, &[*id, *status], out),
            Self::Settings { initial_window } => match initial_window {
                Some(window) => words(4, &[1, SETTING_INITIAL_WINDOW, *window], out),
                None => words(4, &[0], out),
            },
            Self::Ping(id) => words(6, &[*id], out),
            Self::GoAway { last } => words(7, &[*last, 0], out),
            Self::WindowUpdate { id, delta } => words(9, &[*id, *delta], out),
            Self::Data {
                id,
                fin: is_last,
                data,
            } => {
                out.put_u32(*id);
                put_flags_and_length(fin(*is_last), data.len(), out);
                out.put_slice(data);
            }
        }
    }
}

fn headers_frame(
    kind: u16,
    id: StreamId,
    flags: u8,
    headers: &Headers,
    deflate: &mut Deflate,
    out: &mut BytesMut,
) {
    let block = deflate.write(headers);
    control(kind, flags, 4 + block.len(), out);
    out.put_u32(id);
    out.put_slice(&block);
}

fn words(kind: u16, words: &[u32], out: &mut BytesMut) {
    control(kind, 0, 4 * words.len(), out);
    for &word in words {
        out.put_u32(word);
    }
}

fn control(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_flags_and_length(flags, length, out);
}

/// Everything that is written is far below the 16 MiB that fit.
fn put_flags_and_length(flags: u8, length: usize, out: &mut BytesMut) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u32(u32::from(flags) << 24 | length);
}
