//! Extensions of ours, sent only after both sides of a connection offered them in the flags words of their
//! params ([`EXT_V1`]). A published node ignores those bits and never offers, so it never meets these.

use bytes::Bytes;

use crate::codec::ByteStr;
use crate::macros::{tl_debug, tl_struct, tl_union};

/// The bit of the params' flags words by which a node offers extension set 1: [`Cancel`], [`Credit`], answer parts
/// of at most [`MAX_PART_BYTES`] that interleave, the workers' evidence ([`GetWorkers`], [`GetEvidence`],
/// [`AllowWorkers`]), what a request wishes ([`RequestOptions`]), bodies that stream ([`BodyPart`], [`BodyCredit`]),
/// and what workers can do ([`Abilities`]). Bits 0 and 1 are the scheme's.
pub const EXT_V1: u32 = 1 << 16;

/// The bit of `client.params`' flags word, beside [`EXT_V1`], by which a client says that it names the workers that
/// may see its requests. No worker may before its first [`AllowWorkers`].
pub const EXT_ALLOWS_WORKERS: u32 = 1 << 17;

/// The most body bytes in one part where [`EXT_V1`] is agreed, of an answer or of a request: 64 KiB.
pub const MAX_PART_BYTES: usize = 64 * 1024;

/// The most hashes in [`RequestOptions::affinity`].
pub const MAX_AFFINITY: usize = 16;

/// The longest [`RequestOptions::trace`], in bytes: a W3C `traceparent` of version 00 has 55.
pub const MAX_TRACE_BYTES: usize = 64;

/// What a worker can do, as bits of [`Abilities::abilities`] and [`RequestOptions::needs`]. Bits without a name here
/// are kept and compared all the same, so that newer gateways and workers find each other through older proxies.
pub mod ability {
    /// `/v1/chat/completions`.
    pub const CHAT: u32 = 1;
    /// `/v1/completions`.
    pub const COMPLETIONS: u32 = 1 << 1;
    /// `/v1/responses`.
    pub const RESPONSES: u32 = 1 << 2;
    /// `/v1/messages`.
    pub const MESSAGES: u32 = 1 << 3;
    /// `/v1/embeddings`.
    pub const EMBEDDINGS: u32 = 1 << 4;
    /// `/v1/rerank`.
    pub const RERANK: u32 = 1 << 5;
    /// `/v1/audio/transcriptions`.
    pub const TRANSCRIPTIONS: u32 = 1 << 6;
    /// `/v1/audio/translations`.
    pub const TRANSLATIONS: u32 = 1 << 7;
    /// `/v1/audio/speech`.
    pub const SPEECH: u32 = 1 << 8;
    /// `/v1/images/generations`.
    pub const IMAGES: u32 = 1 << 9;
    /// `/v1/images/edits` and `/v1/images/variations`.
    pub const IMAGE_EDITS: u32 = 1 << 10;
    /// `/v1/moderations`.
    pub const MODERATIONS: u32 = 1 << 11;
    /// `/tokenize` and `/detokenize`.
    pub const TOKENIZE: u32 = 1 << 12;
    /// `/v1/messages/count_tokens`.
    pub const COUNT_TOKENS: u32 = 1 << 13;
    /// `/v1/responses/input_tokens`.
    pub const INPUT_TOKENS: u32 = 1 << 14;
    /// Calls of tools.
    pub const TOOLS: u32 = 1 << 16;
    /// Images in messages.
    pub const IMAGE_INPUT: u32 = 1 << 17;
    /// Audio in messages.
    pub const AUDIO_INPUT: u32 = 1 << 18;
    /// Answers held to a JSON schema.
    pub const STRUCTURED_OUTPUT: u32 = 1 << 19;
    /// Reasoning before the answer; for information.
    pub const REASONING: u32 = 1 << 20;

    /// What a worker counts as that has not told; published ones never do.
    pub const UNTOLD: u32 = CHAT | COMPLETIONS;
}

tl_struct! {
    /// `cocoon.cancel`: nobody waits for this request any more.
    #[derive(Copy, Eq)]
    Cancel = 0xe7e0_3050 {
        /// The request, by its id on this connection.
        request_id: [u8; 32],
    }
}

tl_struct! {
    /// `cocoon.credit`: the sender takes this many more answer bytes of a request.
    #[derive(Copy, Eq)]
    Credit = 0x9202_b4f2 {
        /// The request, by its id on this connection.
        request_id: [u8; 32],
        /// Bytes on top of what was granted before.
        bytes: i64,
    }
}

tl_struct! {
    /// `cocoon.worker`: a worker that is connected to the proxy, or no longer.
    #[derive(Eq)]
    Worker = 0xace2_f709 {
        /// SHA-256 of the certificate (DER) that it showed.
        fingerprint: [u8; 32],
        /// What it serves, in full (`name@commit:hash`), sorted; empty where it is no longer connected.
        models: Vec<ByteStr>,
    }
}

tl_struct! {
    /// `cocoon.workers`: what changed among the proxy's workers, oldest change first.
    #[derive(Eq)]
    Workers = 0xc9c8_201e {
        /// What the client knows is too old: it is to forget it all, and this is the beginning of the whole list.
        reset: bool,
        /// The number of the last change told here.
        seen: i64,
        /// The number of the newest change. Where `seen` is less, there is more to ask for.
        newest: i64,
        /// The changes, as states after them; at most one for each worker.
        workers: Vec<Worker>,
    }
}

tl_struct! {
    /// `cocoon.getWorkers`: what changed among the workers?
    #[derive(Copy, Eq)]
    GetWorkers = 0x2c13_e881 {
        /// The change up to which the client's list was complete last; or, where it was reset since, the newest
        /// change at that time. 0 at first.
        begun: i64,
        /// The last change that it has seen. 0 at first.
        seen: i64,
    }
}

tl_union! {
    /// `cocoon.Evidence`: what a worker showed of itself.
    #[derive(Eq)]
    Evidence {
        /// `cocoon.evidence`: it is known.
        Known = 0x5b30_e178 {
            /// As asked for.
            fingerprint: [u8; 32],
            /// The certificate in DER, exactly as shown in TLS.
            certificate: Bytes,
            /// The proxy's own verdict about it, JSON.
            verdict: Bytes,
        },
        /// `cocoon.evidenceUnknown`: the proxy knows no such worker, or no longer.
        Unknown = 0x3053_d408 {
            /// As asked for.
            fingerprint: [u8; 32],
        },
    }
}

tl_struct! {
    /// `cocoon.getEvidence`: what did this worker show of itself?
    #[derive(Copy, Eq)]
    GetEvidence = 0x7647_5cce {
        /// SHA-256 of its certificate.
        fingerprint: [u8; 32],
    }
}

tl_struct! {
    /// `cocoon.allowWorkers`: from now on the client's requests may go to these workers, too, and no longer to those.
    #[derive(Eq)]
    AllowWorkers = 0x3653_b89a {
        /// Allowed from now on; whether connected or not.
        allow: Vec<[u8; 32]>,
        /// Not allowed any more. What is in both lists is not allowed.
        disallow: Vec<[u8; 32]>,
    }
}

tl_struct! {
    /// `cocoon.requestOptions`: what is to be known about the request that follows in the very next packet. Without it,
    /// everything is as in the published protocol.
    #[derive(Eq)]
    RequestOptions = 0xfc14_9c40 {
        /// The id of the request that follows.
        request_id: [u8; 32],
        /// Bits of [`ability`] that its worker must have.
        needs: i32,
        /// Among the workers that can serve it: 0 balanced, 1 the cheapest, 2 the fastest.
        preference: i32,
        /// Hashes of growing prefixes of the prompt, shortest first, at most [`MAX_AFFINITY`]; keyed by the sender.
        affinity: Vec<i64>,
        /// A W3C `traceparent`, at most [`MAX_TRACE_BYTES`]; empty where there is none.
        trace: Bytes,
        /// -1: the query holds the whole body. Otherwise so many bytes of it follow in [`BodyPart`]s.
        body_bytes: i64,
    }
}

tl_struct! {
    /// `cocoon.bodyPart`: the next bytes of a request's body.
    #[derive(Eq)]
    BodyPart = 0xe398_d378 {
        /// The request, by its id on this connection.
        request_id: [u8; 32],
        /// At most [`MAX_PART_BYTES`].
        data: Bytes,
        /// Whether the body ends here.
        last: bool,
    }
}

tl_struct! {
    /// `cocoon.bodyCredit`: the sender takes this many more body bytes of a request.
    #[derive(Copy, Eq)]
    BodyCredit = 0xcba8_f918 {
        /// The request, by its id on this connection.
        request_id: [u8; 32],
        /// Bytes on top of what was granted before.
        bytes: i64,
    }
}

tl_struct! {
    /// `cocoon.abilities`: what the worker's engine can do, from now on.
    #[derive(Copy, Eq)]
    Abilities = 0x6d12_e6f2 {
        /// Bits of [`ability`].
        abilities: i32,
    }
}
