//! Operation codes: the first 32 bits of every body but empty ones.

macro_rules! operations {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        $(
            #[doc = concat!("`", $text, "`.")]
            pub const $name: u32 = $code;
        )*

        /// Every code with its published name.
        pub(super) const ALL: &[(u32, &str)] = &[$(($name, $text)),*];
    };
}

operations! {
    EXCESSES = 0x2565_934c, "excesses";
    PAYOUT = 0xc59a_7cd3, "payout";
    DO_NOT_PROCESS = 0x9a12_47c0, "do_not_process";
    PROXY_SAVE_STATE = 0x5310_9c0f, "proxy_save_state";
    ROOT_ADD_WORKER_TYPE = 0xe34b_1c60, "root_add_worker_type";
    ROOT_DEL_WORKER_TYPE = 0x8d94_a79a, "root_del_worker_type";
    ROOT_ADD_MODEL_TYPE = 0xc146_134d, "root_add_model_type";
    ROOT_DEL_MODEL_TYPE = 0x92b1_1c18, "root_del_model_type";
    ROOT_ADD_PROXY_TYPE = 0x7186_0e80, "root_add_proxy_type";
    ROOT_DEL_PROXY_TYPE = 0x3c41_d0b2, "root_del_proxy_type";
    ROOT_REGISTER_PROXY = 0x927c_7cb5, "root_register_proxy";
    ROOT_UNREGISTER_PROXY = 0x6d49_eaf2, "root_unregister_proxy";
    ROOT_UPDATE_PROXY = 0x9c79_24ba, "root_update_proxy";
    ROOT_CHANGE_PRICE = 0xc52e_d8d4, "root_change_price";
    ROOT_CHANGE_PARAMS = 0x022f_a189, "root_change_params";
    ROOT_UPGRADE_CONTRACTS = 0xa237_0f61, "root_upgrade_contracts";
    ROOT_UPGRADE = 0x11ae_fd51, "root_upgrade";
    ROOT_RESET = 0x563c_1d96, "root_reset";
    ROOT_UPGRADE_FULL = 0x4f7c_5789, "root_upgrade_full";
    ROOT_CHANGE_OWNER = 0xc4a1_ae54, "root_change_owner";
    WORKER_PROXY_REQUEST = 0x4d72_5d2c, "worker_proxy_request";
    WORKER_PROXY_PAYOUT_REQUEST = 0x08e7_d036, "worker_proxy_payout_request";
    CLIENT_PROXY_REQUEST = 0x6544_8ff4, "client_proxy_request";
    CLIENT_PROXY_TOP_UP = 0x5cfc_6b87, "client_proxy_top_up";
    CLIENT_PROXY_REGISTER = 0xa35c_b580, "client_proxy_register";
    CLIENT_PROXY_REFUND_GRANTED = 0xc68e_bc7b, "client_proxy_refund_granted";
    CLIENT_PROXY_REFUND_FORCE = 0xf4c3_54c9, "client_proxy_refund_force";
    PROXY_CLIENT_UNPAID = 0x1b6e_0f5d, "proxy_client_unpaid";
    EXT_PROXY_INCREASE_STAKE = 0x9713_f187, "ext_proxy_increase_stake";
    EXT_PROXY_PAYOUT_REQUEST = 0x7610_e6eb, "ext_proxy_payout_request";
    OWNER_PROXY_CLOSE = 0xb51d_5a01, "owner_proxy_close";
    EXT_PROXY_CLOSE_REQUEST_SIGNED = 0x636a_4391, "ext_proxy_close_request_signed";
    EXT_PROXY_CLOSE_COMPLETE_REQUEST_SIGNED = 0xe511_abc7, "ext_proxy_close_complete_request_signed";
    EXT_WORKER_PAYOUT_REQUEST_SIGNED = 0xa040_ad28, "ext_worker_payout_request_signed";
    EXT_WORKER_LAST_PAYOUT_REQUEST_SIGNED = 0xf5f2_6a36, "ext_worker_last_payout_request_signed";
    OWNER_WORKER_REGISTER = 0x26ed_7f65, "owner_worker_register";
    EXT_CLIENT_TOP_UP = 0xf172_e6c2, "ext_client_top_up";
    EXT_CLIENT_CHARGE_SIGNED = 0xbb63_ff93, "ext_client_charge_signed";
    EXT_CLIENT_GRANT_REFUND_SIGNED = 0xefd7_11e1, "ext_client_grant_refund_signed";
    OWNER_CLIENT_REGISTER = 0xc45f_9f3b, "owner_client_register";
    OWNER_CLIENT_CHANGE_SECRET_HASH = 0xa935_7034, "owner_client_change_secret_hash";
    OWNER_CLIENT_CHANGE_SECRET_HASH_AND_TOP_UP = 0x8473_b408, "owner_client_change_secret_hash_and_top_up";
    OWNER_CLIENT_REQUEST_REFUND = 0xfafa_6cc1, "owner_client_request_refund";
    OWNER_CLIENT_INCREASE_STAKE = 0x6a1f_6a60, "owner_client_increase_stake";
    OWNER_CLIENT_WITHDRAW = 0xda06_8e78, "owner_client_withdraw";
    OWNER_WALLET_SEND_MESSAGE = 0x9c69_f376, "owner_wallet_send_message";
}

/// A comment, or for some contracts a one-letter command: text follows.
pub const TEXT: u32 = 0;
/// A bounced message with the first 256 bits of the original body.
pub const BOUNCED: u32 = 0xffff_ffff;
/// A bounced message with the whole original body.
pub const BOUNCED_WHOLE: u32 = 0xffff_fffe;

/// The published snake-case name of an operation.
pub fn operation_name(op: u32) -> Option<&'static str> {
    ALL.iter().find(|(code, _)| *code == op).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Where the contracts' sources use a shorter name than the published one.
    const SHORTER: [(&str, &str); 4] = [
        ("ext_proxy_close_signed", "ext_proxy_close_request_signed"),
        ("ext_proxy_close_complete_signed", "ext_proxy_close_complete_request_signed"),
        ("ext_worker_payout_signed", "ext_worker_payout_request_signed"),
        ("ext_worker_last_payout_signed", "ext_worker_last_payout_request_signed"),
    ];

    #[test]
    fn the_codes_are_those_that_the_contracts_are_compiled_with() {
        let source = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/src/protocol.tolk"));
        let in_contracts: BTreeMap<u32, String> = source
            .lines()
            .filter_map(|line| line.strip_prefix("const OP_")?.split_once(" = 0x"))
            .filter_map(|(name, code)| Some((name.to_lowercase(), code.strip_suffix(';')?)))
            .filter_map(|(name, code)| Some((u32::from_str_radix(code, 16).ok()?, name)))
            .map(|(code, name)| {
                let published = SHORTER.iter().find(|(short, _)| *short == name);
                (code, published.map_or(name, |(_, published)| (*published).to_owned()))
            })
            .collect();
        let mut ours: BTreeMap<u32, String> =
            ALL.iter().map(|(code, name)| (*code, (*name).to_owned())).collect();
        assert_eq!(ours.len(), ALL.len(), "no code is used twice");
        // Only nodes write and read it: no contract looks behind `do_not_process`.
        assert!(ours.remove(&PROXY_SAVE_STATE).is_some());
        assert_eq!(ours, in_contracts);
    }
}
