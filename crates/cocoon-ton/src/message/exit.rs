//! What the numbers mean with which a contract refuses a message.

/// An exit code of TVM's compute phase, or a result code of its action phase, in words.
pub const fn exit_code_words(code: i32) -> &'static str {
    match code {
        0 | 1 => "done",
        1000 => "the order is older than what the contract knows",
        1001 => "the contract holds too few coins",
        1002 => "the balance is too low",
        1003 => "the message brings too few coins",
        1004 => "the message is not laid out as it must be",
        1005 => "the order differs from the message around it",
        1006 => "the contract is closed, or not in the state that this needs",
        1007 => "the signature is not the proxy's",
        1008 => "the contract's data is damaged",
        1009 | 1010 => "only the contract's owner may do this",
        1011 => "the delay is not over yet",
        1012 => "the contract does not know this operation",
        1013 => "the contract does not know this text command",
        1014 => "the sender is not the contract that it claims to be",
        1015 => "the order is for another contract",
        1030 => "the wallet's message has expired",
        1031 => "the wallet is blocked by its owner",
        1032 => "the wallet's message has another sequence number than the wallet",
        1033 => "the wallet's message is for another subwallet",
        1034 => "the signature is not that of the wallet's key",
        1035 => "the wallet holds too few coins to take messages of its key",
        1040 => "only the wallet's owner may do this",
        1041 => "the wallet does not know this operation",
        2000 => "no proxy is registered under this number",
        2 => "stack underflow",
        3 => "stack overflow",
        4 => "a number is too large",
        5 => "a number is out of its range",
        6 => "the code has an invalid instruction",
        7 => "a value has the wrong type",
        8 => "a cell is too small for what is written",
        9 => "a cell has less than what is read",
        10 => "a dictionary is damaged",
        11 => "the contract has no such method, or another error without a number of its own",
        12 => "the virtual machine gave up",
        13 | -14 => "out of gas",
        32 => "the list of actions is damaged",
        33 => "too many actions",
        34 => "an action is invalid or not supported",
        35 => "an outgoing message names a wrong sender",
        36 => "an outgoing message names a wrong receiver",
        37 => "too few coins for an outgoing message",
        38 => "too few extra coins for an outgoing message",
        39 => "an outgoing message does not fit a cell",
        40 => "an outgoing message cannot be paid for or is too large",
        41 => "a library is missing",
        42 => "a library cannot be changed",
        43 => "too many library cells",
        50 => "the account would become too large",
        _ => "an error that this program has no words for",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_contracts_has_words() {
        let source = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/src/protocol.tolk"));
        let codes: Vec<i32> = source
            .lines()
            .filter(|line| line.starts_with("const ERR_"))
            .filter_map(|line| line.split_once(" = ")?.1.strip_suffix(';')?.parse().ok())
            .collect();
        assert!(codes.len() > 20 && codes.contains(&1015), "the source is read: {codes:?}");
        for code in codes {
            assert_ne!(exit_code_words(code), exit_code_words(i32::MIN), "{code}");
        }
    }
}
