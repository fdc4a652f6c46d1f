//! Header blocks: name and value pairs, compressed over the whole life of a connection with a dictionary that both
//! sides know (SPDY/3.1, §2.6.10).

use std::{collections::BTreeMap, sync::LazyLock};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Names in lower case.
pub(crate) type Headers = BTreeMap<String, String>;

/// The most that one block may be when inflated, and the most pairs in it.
const MAX_BLOCK: usize = 16 << 10;
const MAX_PAIRS: usize = 64;

/// The words before the dictionary's tail; each is there with its length before it.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS {
        put_text(word, &mut dictionary);
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
});

/// The peer's blocks.
#[derive(Debug)]
pub(super) struct Inflate(Decompress);

/// This side's blocks.
#[derive(Debug)]
pub(super) struct Deflate(Compress);

impl Inflate {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the connection's next block.
    pub(super) fn read(&mut self, mut input: &[u8]) -> Result<Headers, SpdyError> {
        let mut block = Vec::with_capacity(1 << 10);
        loop {
            let (taken_before, made_before) = (self.0.total_in(), block.len());
            match self.0.decompress_vec(input, &mut block, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(SpdyError::Protocol("the headers' compression ends")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| SpdyError::Protocol("headers with an unknown dictionary"))?;
                }
                Err(_) => return Err(SpdyError::Protocol("headers that cannot be inflated")),
            }
            let taken = usize::try_from(self.0.total_in() - taken_before).unwrap_or(input.len());
            input = &input[taken.min(input.len())..];
            if block.len() > MAX_BLOCK {
                return Err(SpdyError::Protocol("headers of more than 16 KiB"));
            }
            if block.len() == block.capacity() {
                block.reserve(4 << 10);
            } else if input.is_empty() {
                return parse(&block);
            } else if taken == 0 && block.len() == made_before && self.0.total_in() > 6 {
                return Err(SpdyError::Protocol("headers that cannot be inflated"));
            }
        }
    }
}

impl Deflate {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // Fails only after the first bytes; and without it the peer could read the blocks all the same.
        let _ = compress.set_dictionary(&DICTIONARY);
        Self(compress)
    }

    /// The connection's next block.
    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut block = Vec::new();
        block.extend_from_slice(&length(headers.len()));
        for (name, value) in headers {
            put_text(name, &mut block);
            put_text(value, &mut block);
        }
        // Room for all of it, stored, with what a flush adds.
        let mut output = Vec::with_capacity(block.len() + block.len() / 8 + 256);
        let _ = self.0.compress_vec(&block, &mut output, FlushCompress::Sync);
        output
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, SpdyError> {
    let pairs = take_length(&mut block)?;
    if pairs > MAX_PAIRS {
        return Err(SpdyError::Protocol("more than 64 headers"));
    }
    let mut headers = Headers::new();
    for _ in 0..pairs {
        let name = take_text(&mut block)?.to_lowercase();
        let value = take_text(&mut block)?;
        if name.is_empty() || headers.insert(name, value).is_some() {
            return Err(SpdyError::Protocol("a header without a name, or twice"));
        }
    }
    if block.is_empty() {
        Ok(headers)
    } else {
        Err(SpdyError::Protocol("something follows the headers"))
    }
}

fn take_length(block: &mut &[u8]) -> Result<usize, SpdyError> {
    let (length, rest) = block
        .split_first_chunk()
        .ok_or(SpdyError::Protocol("headers that are cut off"))?;
    *block = rest;
    Ok(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX))
}

fn take_text(block: &mut &[u8]) -> Result<String, SpdyError> {
    let length = take_length(block)?;
    let (text, rest) = block
        .split_at_checked(length)
        .ok_or(SpdyError::Protocol("headers that are cut off"))?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Protocol("a header that is not text"))
}

fn put_text(text: &str, block: &mut Vec<u8>) {
    block.extend_from_slice(&length(text.len()));
    block.extend_from_slice(text.as_bytes());
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_specification() {
        assert_eq!(DICTIONARY.len(), 1423);
        // The Adler-32 by which a peer's first block asks for it.
        let adler = Compress::new(Compression::fast(), true)
            .set_dictionary(&DICTIONARY)
            .unwrap();
        assert_eq!(adler, 0xe3c6_a7c2);
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_inflated() {
        let headers = Headers::from([("a".to_owned(), "x".repeat(1 << 20))]);
        let block = {
            let mut compress = Compress::new(Compression::best(), true);
            compress.set_dictionary(&DICTIONARY).unwrap();
            let mut plain = 1u32.to_be_bytes().to_vec();
            put_text("a", &mut plain);
            put_text(&headers["a"], &mut plain);
            let mut output = Vec::with_capacity(1 << 20);
            compress
                .compress_vec(&plain, &mut output, FlushCompress::Sync)
                .unwrap();
            output
        };
        assert!(block.len() < 16 << 10, "{}", block.len());
        let error = Inflate::new().read(&block).unwrap_err().to_string();
        assert!(error.contains("16 KiB"), "{error}");
    }

    proptest! {
        #[test]
        fn headers_come_out_as_they_went_in(
            blocks in prop::collection::vec(
                prop::collection::btree_map("[a-z-]{1,20}", "\\PC{0,60}", 0..8),
                1..6,
            )
        ) {
            let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
            for headers in blocks {
                prop_assert_eq!(inflate.read(&deflate.write(&headers)).unwrap(), headers);
            }
        }

        #[test]
        fn no_input_breaks_the_inflater(input in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Inflate::new().read(&input);
        }

        #[test]
        fn no_damage_to_a_block_breaks_the_inflater(
            headers in prop::collection::btree_map("[a-z-]{1,20}", "\\PC{0,60}", 0..8),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut block = Deflate::new().write(&headers);
            let at = at.index(block.len());
            block[at] = byte;
            let _ = Inflate::new().read(&block);
        }
    }
}
