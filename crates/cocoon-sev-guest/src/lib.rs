//! One question to Linux's SEV-SNP guest device: a key that the secure processor derives for this guest.
//!
//! A crate of its own because an ioctl takes `unsafe`, which is forbidden everywhere else. It knows how the question
//! goes to the kernel and comes back, and nothing of what it means: that is in `cocoon-tee`.
//!
//! Sources: Linux `include/uapi/linux/sev-guest.h` and `Documentation/virt/coco/sev-guest.rst` (the ioctl); AMD 56860,
//! "SEV Secure Nested Paging Firmware ABI Specification", `MSG_KEY_REQ` and `MSG_KEY_RSP` (what goes through it).

use std::fs::File;
use std::io;

use zeroize::{Zeroize as _, Zeroizing};

/// What the firmware makes a key from: the fields of `MSG_KEY_REQ`, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyRequest {
    /// `ROOT_KEY_SELECT` in bit 0, `KEY_SEL` in bits 1 and 2.
    pub root_key_select: u32,
    /// Which fields of the guest are mixed in, a bit for each.
    pub guest_field_select: u64,
    /// The privilege level to mix in; not below (that is, not more privileged than) the caller's own.
    pub vmpl: u32,
    /// The guest's security version to mix in.
    pub guest_svn: u32,
    /// The TCB version to mix in, as the bytes of a report's TCB read as a little-endian number.
    pub tcb_version: u64,
}

/// Length of `MSG_KEY_RSP`, bytes: status (4), reserved (28), key (32).
pub const RESPONSE_LEN: usize = 64;

/// `struct snp_derived_key_req`.
#[repr(C)]
struct RawRequest {
    root_key_select: u32,
    reserved: u32,
    guest_field_select: u64,
    vmpl: u32,
    guest_svn: u32,
    tcb_version: u64,
}

/// `struct snp_derived_key_resp`.
#[repr(C)]
struct RawResponse {
    data: [u8; RESPONSE_LEN],
}

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
#[derive(Default)]
struct RawMessage {
    message_version: u8,
    request: u64,
    response: u64,
    /// Firmware's error in the lower half, the hypervisor's in the upper one.
    exit_info: u64,
}

const _: () = assert!(size_of::<RawRequest>() == 32);
const _: () = assert!(size_of::<RawResponse>() == RESPONSE_LEN);
const _: () = assert!(size_of::<RawMessage>() == 32);

/// Why there was no response.
#[derive(Debug)]
pub struct IoctlError {
    /// What the kernel said.
    pub error: io::Error,
    /// The firmware's error in the lower half and the hypervisor's in the upper one, where the kernel gave them.
    pub exit_info: u64,
}

/// Asks the device, an open `/dev/sev-guest`, for a derived key. The answer is the firmware's response as it came:
/// its status first, and the key only where that is zero.
///
/// # Errors
/// The kernel, the hypervisor or the firmware did not answer; or this is not Linux.
#[cfg(target_os = "linux")]
pub fn derive_key(device: &File, request: &KeyRequest) -> Result<Zeroizing<[u8; RESPONSE_LEN]>, IoctlError> {
    use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

    /// `SNP_GET_DERIVED_KEY`: `_IOWR('S', 1, struct snp_guest_request_ioctl)`.
    const GET_DERIVED_KEY: Opcode = opcode::read_write::<RawMessage>(b'S', 1);

    let mut question = RawRequest {
        root_key_select: request.root_key_select,
        reserved: 0,
        guest_field_select: request.guest_field_select,
        vmpl: request.vmpl,
        guest_svn: request.guest_svn,
        tcb_version: request.tcb_version,
    };
    let mut answer = RawResponse { data: [0; RESPONSE_LEN] };
    let mut message = RawMessage {
        message_version: 1,
        request: address(&raw mut question),
        response: address(&raw mut answer),
        exit_info: 0,
    };
    // SAFETY: the opcode is the one that the kernel's header defines over `struct snp_guest_request_ioctl`, and
    // `RawMessage` is that structure: `repr(C)`, the same fields in the same order.
    let update = unsafe { Updater::<GET_DERIVED_KEY, RawMessage>::new(&mut message) };
    // SAFETY: the kernel reads 32 bytes at `question` and writes at most 64 bytes at `answer`, which are that long,
    // writable, and outlive the call; it keeps no pointer to them. Another device than the one meant answers this
    // opcode with an error (ENOTTY), as no other driver has it for a structure with pointers.
    let asked = unsafe { ioctl(device, update) };
    let response = Zeroizing::new(answer.data);
    answer.data.zeroize();
    match asked {
        Ok(()) => Ok(response),
        Err(error) => Err(IoctlError { error: error.into(), exit_info: message.exit_info }),
    }
}

/// An address as the kernel takes it; the kernel may read and write there.
#[cfg(target_os = "linux")]
fn address<T>(pointer: *mut T) -> u64 {
    // Pointers have at most 64 bits on everything that Linux runs on.
    pointer.expose_provenance() as u64
}

/// There is no such device here.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn derive_key(
    _device: &File,
    _request: &KeyRequest,
) -> Result<Zeroizing<[u8; RESPONSE_LEN]>, IoctlError> {
    Err(IoctlError { error: io::ErrorKind::Unsupported.into(), exit_info: 0 })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_structures_lie_as_the_kernel_lays_them_out() {
        assert_eq!(std::mem::offset_of!(RawRequest, guest_field_select), 8);
        assert_eq!(std::mem::offset_of!(RawRequest, vmpl), 16);
        assert_eq!(std::mem::offset_of!(RawRequest, guest_svn), 20);
        assert_eq!(std::mem::offset_of!(RawRequest, tcb_version), 24);
        assert_eq!(std::mem::offset_of!(RawMessage, request), 8);
        assert_eq!(std::mem::offset_of!(RawMessage, response), 16);
        assert_eq!(std::mem::offset_of!(RawMessage, exit_info), 24);
    }

    #[test]
    fn the_command_has_the_number_of_the_kernels_header() {
        // Direction 3 (both), size 32, type 'S', number 1.
        assert_eq!(rustix::ioctl::opcode::read_write::<RawMessage>(b'S', 1), 0xc020_5301);
    }

    #[test]
    fn another_device_refuses_the_question() {
        let device = File::open("/dev/null").unwrap();
        let refused = derive_key(&device, &KeyRequest::default()).unwrap_err();
        let no_such_command = rustix::io::Errno::NOTTY.raw_os_error();
        assert_eq!(refused.error.raw_os_error(), Some(no_such_command));
        assert_eq!(refused.exit_info, 0);
    }
}
