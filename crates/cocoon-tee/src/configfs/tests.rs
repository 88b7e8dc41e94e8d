//! Reports from a kernel that behaves, and from one that does not.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cocoon_attest::snp::SnpProduct;
use cocoon_attest::{Collateral, Evidence, EvidenceSource, Measurements, UnixSeconds, Verifier as _};

use super::stand_in::{
    EAGAIN, EBUSY, EEXIST, EFBIG, EINTR, EINVAL, EIO, ENXIO, EPERM, ETIMEDOUT, Fault, Interloper, Machine,
    OnDisk, StandIn,
};
use super::*;
use crate::simulated::snp::{SimulatedAmd, SimulatedSnp};
use crate::simulated::tdx::{QuoteForm, SimulatedIntel, trust_domain};

const DATA: ReportData = ReportData([0x5a; 64]);
const NOW: UnixSeconds = UnixSeconds(1_795_228_887);

fn tdx(machine: Machine) -> StandIn {
    let source = SimulatedIntel::from_seed(&[7; 32]).machine(1).source(QuoteForm::V4, trust_domain("worker"));
    StandIn::new(Arc::new(source), machine)
}

fn snp(machine: Machine) -> StandIn {
    StandIn::new(Arc::new(SimulatedSnp::new(SnpProduct::Genoa, &[7; 32], b"worker")), machine)
}

fn tsm(kernel: &StandIn) -> ConfigfsTsm {
    ConfigfsTsm::with_files(Arc::new(kernel.clone()), Path::new(StandIn::BASE))
}

fn quote(kernel: &StandIn) -> Result<Evidence, TsmError> {
    let quote = TdxMachine::new(tsm(kernel)).quote(&DATA);
    assert_eq!(kernel.directories_left(), 0, "the directory stays behind");
    quote
}

fn report(kernel: &StandIn) -> Result<Evidence, TsmError> {
    let report = SnpMachine::new(tsm(kernel)).report(&DATA);
    assert_eq!(kernel.directories_left(), 0, "the directory stays behind");
    report.map(|(_report, evidence)| evidence)
}

fn fault(operation: &'static str, times: u32, code: i32) -> Machine {
    Machine { faults: vec![Fault { operation, times, code }], ..Machine::default() }
}

#[test]
fn a_quote_from_the_kernel_is_accepted_for_what_it_was_asked_for() {
    let kernel = tdx(Machine::default());
    let evidence = TdxMachine::new(tsm(&kernel)).evidence(&DATA).unwrap();
    assert_eq!(evidence.kind(), EvidenceKind::Tdx);
    let intel = SimulatedIntel::from_seed(&[7; 32]);
    let verifier = cocoon_attest::tdx::TdxVerifier::new(cocoon_attest::tdx::TdxPolicy::strict())
        .with_test_root(intel.root_certificate())
        .unwrap();
    let verdict = verifier.verify(&evidence, &intel.collateral(NOW), &DATA, NOW);
    assert!(verdict.accepted(), "{verdict:?}");
    assert_eq!(kernel.machine().made_reports, 1);
}

#[test]
fn a_report_from_the_kernel_is_accepted_with_the_hosts_certificates() {
    let kernel = snp(Machine::default());
    let machine = SnpMachine::new(tsm(&kernel));
    let evidence = machine.evidence(&DATA).unwrap();
    let (report, same) = machine.report(&DATA).unwrap();
    assert_eq!(evidence, same);
    let floor = cocoon_attest::snp::SnpTcb::read(report.committed_tcb, SnpProduct::Genoa);
    let policy = cocoon_attest::snp::SnpPolicy::with_floors([(SnpProduct::Genoa, floor)]);
    let verifier = cocoon_attest::snp::SnpVerifier::with_roots(policy, SimulatedAmd::roots());
    let verdict = verifier.verify(&evidence, &Collateral::none(), &DATA, NOW);
    assert!(verdict.accepted(), "{verdict:?}");
    assert!(matches!(verdict.measurements, Some(Measurements::SevSnp(found)) if found == report));
}

#[test]
fn each_report_has_a_directory_of_its_own_whose_name_nobody_foresees() {
    let kernel = tdx(fault("remove_dir", u32::MAX, EPERM));
    for _ in 0..2 {
        TdxMachine::new(tsm(&kernel)).quote(&DATA).unwrap();
    }
    // Two names, or the stand-in would have found the name taken.
    assert_eq!(kernel.directories_left(), 2);
}

#[test]
fn a_busy_kernel_is_waited_for() {
    for code in [EBUSY, EAGAIN, EINTR] {
        for file in ["outblob", "inblob", "generation"] {
            let kernel = tdx(fault(file, 5, code));
            assert!(quote(&kernel).is_ok(), "{file}: {code}");
            assert!(kernel.waited() > Duration::ZERO);
        }
    }
    let kernel = tdx(fault("remove_dir", 2, EBUSY));
    assert!(quote(&kernel).is_ok());
}

#[test]
fn a_kernel_that_stays_busy_is_given_up_at_the_limit() {
    let kernel = tdx(fault("outblob", u32::MAX, EBUSY));
    assert_eq!(quote(&kernel), Err(TsmError::Busy));
    assert!(kernel.waited() <= TIME_LIMIT, "{:?}", kernel.waited());
    assert!(kernel.waited() + Duration::from_secs(2) > TIME_LIMIT, "{:?}", kernel.waited());
    let tries = u32::MAX - kernel.machine().faults[0].times;
    assert!((20..60).contains(&tries), "{tries} tries");
}

#[test]
fn somebody_elses_writing_is_noticed_and_outlived() {
    for when in [Interloper::BeforeReading, Interloper::WhileReading] {
        let kernel = tdx(Machine { interlopers: vec![when; 7], ..Machine::default() });
        assert!(quote(&kernel).is_ok(), "{when:?}");
        let kernel = tdx(Machine { interlopers: vec![when; 8], ..Machine::default() });
        assert_eq!(quote(&kernel), Err(TsmError::Disturbed { attempts: 8 }), "{when:?}");
        // Both blobs are read, so there may be two in each attempt.
        let kernel = snp(Machine { interlopers: vec![when; 16], ..Machine::default() });
        assert_eq!(report(&kernel), Err(TsmError::Disturbed { attempts: 8 }), "{when:?}");
    }
}

#[test]
fn a_writing_that_the_kernel_silently_refused_is_done_again() {
    let kernel = tdx(Machine { swallowed: 3, ..Machine::default() });
    assert!(quote(&kernel).is_ok());
    let kernel = tdx(Machine { swallowed: u32::MAX, ..Machine::default() });
    assert_eq!(quote(&kernel), Err(TsmError::Disturbed { attempts: 8 }));
    assert_eq!(kernel.machine().made_reports, 0, "nothing was read that was not asked for");
}

#[test]
fn a_report_about_other_data_is_an_error() {
    let other = || Machine { bound_to: Some(ReportData([1; 64])), ..Machine::default() };
    assert_eq!(quote(&tdx(other())), Err(TsmError::OtherReportData));
    assert_eq!(report(&snp(other())), Err(TsmError::OtherReportData));
}

#[test]
fn a_machine_of_the_other_kind_is_refused_by_name() {
    let wanted_tdx = TdxMachine::new(tsm(&snp(Machine::default()))).evidence(&DATA).unwrap_err();
    assert_eq!(
        wanted_tdx.reason,
        "the machine's attestation driver is sev_guest, not tdx_guest: set `attestation.present` to what it is"
    );
    let wanted_snp = TsmError::OtherProvider { wanted: Provider::SevGuest, found: Provider::TdxGuest };
    assert_eq!(report(&tdx(Machine::default())), Err(wanted_snp));
    for name in [&b"arm_cca_guest\n"[..], b"", b"tdx_guest2", b"\xff\xff"] {
        let kernel = tdx(Machine { provider: Some(name), ..Machine::default() });
        assert_eq!(quote(&kernel), Err(TsmError::UnknownProvider));
    }
}

#[test]
fn what_is_longer_than_allowed_is_not_taken() {
    let of = |outblob: usize| Machine { outblob: Some(vec![0; outblob]), ..Machine::default() };
    let limit = MAX_OUTBLOB_LEN;
    assert_eq!(quote(&tdx(of(limit + 1))), Err(TsmError::TooLong { file: "outblob", limit }));
    assert!(matches!(quote(&tdx(of(limit))), Err(TsmError::Malformed { file: "outblob", .. })));
    let aux = |len| Machine { auxblob: Some(Some(vec![0; len])), ..Machine::default() };
    let limit = MAX_AUXBLOB_LEN;
    assert_eq!(report(&snp(aux(limit + 1))), Err(TsmError::TooLong { file: "auxblob", limit }));
    assert!(report(&snp(aux(limit))).is_ok());
    // The kernel's own limit.
    assert!(matches!(quote(&tdx(fault("outblob", 1, EFBIG))), Err(TsmError::TooLong { .. })));
    let endless = Machine { provider: Some(&[b'a'; 65]), ..Machine::default() };
    assert_eq!(quote(&tdx(endless)), Err(TsmError::TooLong { file: "provider", limit: 64 }));
}

#[test]
fn a_host_without_certificates_or_with_nonsense_leaves_the_report_alone() {
    for auxblob in [None, Some(Vec::new()), Some(vec![0; 4096]), Some(vec![0xff; 100])] {
        let kernel = snp(Machine { auxblob: Some(auxblob), ..Machine::default() });
        assert_eq!(report(&kernel).unwrap().bytes().len(), cocoon_attest::snp::SnpReport::LEN);
    }
}

#[test]
fn a_guest_below_the_highest_privilege_asks_for_its_own_level() {
    let kernel = snp(Machine { privilege_floor: Some(2), ..Machine::default() });
    assert!(report(&kernel).is_ok());
    assert_eq!(kernel.machine().asked_levels, [2]);
    let kernel = snp(Machine { privilege_floor: Some(0), ..Machine::default() });
    assert!(report(&kernel).is_ok());
    assert_eq!(kernel.machine().asked_levels, [0_u64; 0]);
}

#[test]
fn each_failure_says_what_to_do() {
    let refused = |provider| TsmError::Refused { provider };
    let cases = [
        ("create_dir", EPERM, TsmError::Permission { file: "the directory" }, "run as root"),
        ("create_dir", ENXIO, TsmError::NoDriver, "modprobe"),
        ("provider", ENXIO, TsmError::NoDriver, "modprobe"),
        ("inblob", EPERM, TsmError::Permission { file: "inblob" }, "run as root"),
        ("outblob", ETIMEDOUT, TsmError::QuoteTimedOut, "qgsd"),
        ("outblob", EIO, refused(Provider::TdxGuest), "quote-generation-socket"),
        ("outblob", EINVAL, TsmError::Invalid { file: "outblob" }, "dmesg"),
    ];
    for (operation, code, expected, mend) in cases {
        let error = quote(&tdx(fault(operation, 1, code))).unwrap_err();
        assert_eq!(error, expected, "{operation}: {code}");
        assert!(error.to_string().contains(mend), "{error}");
    }
    for code in [EIO, ENXIO] {
        assert_eq!(report(&snp(fault("outblob", 1, code))), Err(refused(Provider::SevGuest)));
    }
    let named_twice = tdx(fault("create_dir", 3, EEXIST));
    assert!(quote(&named_twice).is_ok());
}

#[test]
fn a_machine_without_the_interface_is_told_from_one_where_it_fails() {
    let nowhere = ConfigfsTsm::open(Path::new("/nonexistent/tsm/report"));
    let absent = nowhere.provider().unwrap_err();
    assert!(matches!(absent, TsmError::Missing { .. }) && absent.is_absence());
    assert!(absent.to_string().contains("mount -t configfs"), "{absent}");
    assert!(tsm(&tdx(fault("create_dir", 1, ENXIO))).provider().unwrap_err().is_absence());
    assert!(!tsm(&tdx(fault("create_dir", 1, EPERM))).provider().unwrap_err().is_absence());
    let kernel = snp(Machine::default());
    assert_eq!(tsm(&kernel).provider(), Ok(Provider::SevGuest));
    assert_eq!(kernel.directories_left(), 0);
    assert_eq!(kernel.machine().made_directories, 1);
}

#[test]
fn a_real_directory_is_written_read_and_left_empty() {
    let base = tempfile::tempdir().unwrap();
    let on_disk = |kernel| ConfigfsTsm::with_files(Arc::new(OnDisk::new(kernel, base.path())), base.path());
    let left = || fs::read_dir(base.path()).unwrap().count();

    let tdx_evidence = TdxMachine::new(on_disk(tdx(Machine::default()))).quote(&DATA).unwrap();
    assert_eq!(tdx_evidence, quote(&tdx(Machine::default())).unwrap());
    let kernel = snp(Machine { privilege_floor: Some(0), ..Machine::default() });
    let (_report, snp_evidence) = SnpMachine::new(on_disk(kernel)).report(&DATA).unwrap();
    assert_eq!(snp_evidence, report(&snp(Machine::default())).unwrap());
    assert_eq!(left(), 0);

    let long = Machine { outblob: Some(vec![0; MAX_OUTBLOB_LEN + 1]), ..Machine::default() };
    let limit = MAX_OUTBLOB_LEN;
    assert_eq!(
        TdxMachine::new(on_disk(tdx(long))).quote(&DATA),
        Err(TsmError::TooLong { file: "outblob", limit })
    );
    let disturbed = Machine { interlopers: vec![Interloper::BeforeReading; 8], ..Machine::default() };
    let disturbed = TdxMachine::new(on_disk(tdx(disturbed))).quote(&DATA);
    assert_eq!(disturbed, Err(TsmError::Disturbed { attempts: 8 }));
    assert_eq!(left(), 0, "cleared away after errors, too");
}

#[test]
fn a_plain_directory_without_a_kernel_behind_is_no_machine_and_left_as_it_was() {
    let base = tempfile::tempdir().unwrap();
    let error = ConfigfsTsm::open(base.path()).report(Provider::TdxGuest, &DATA).unwrap_err();
    assert!(matches!(error, TsmError::Io { file: "provider", kind: io::ErrorKind::NotFound, .. }), "{error}");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
}
