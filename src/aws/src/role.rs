//! Roles that classes name by annotations, so that their machines are another account's.
//!
//! The class says which role; the class also remembers every role it has used until what was made with it is cleared up,
//! and each claim the one that bought its machine: whatever exists, somebody says where.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_api::{ec2nodeclass::EC2NodeClass, labels::ASSUMED_ROLE, nodeclaim::NodeClaim};
use plimsoll_provider::ProviderError;
use serde::{Deserialize, Serialize};

use crate::credentials::account_of;

/// Annotation on EC2NodeClasses: the role under which everything is done for this class.
pub(crate) const ARN: &str = "plimsoll.dev/assume-role-arn";
/// Annotation on EC2NodeClasses: the external id that its trust policy requires. Default: `--assume-role-external-id`.
pub(crate) const EXTERNAL_ID: &str = "plimsoll.dev/assume-role-external-id";
/// Annotation on EC2NodeClasses: the VPC that role may launch into. Default: the cluster's own, as where its subnets are
/// shared with the other account.
pub(crate) const VPC_ID: &str = "plimsoll.dev/assume-role-vpc-id";
/// Annotation on EC2NodeClasses: the [`Role`]s with which something was made that may still be there.
pub(crate) const ALL_ASSUMED: &str = "plimsoll.dev/assumed-roles";

/// A role as a class names it. Its external id is no part of it: that may change, and old claims must still find their
/// machines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Role {
    pub(crate) arn: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vpc_id: Option<String>,
}

/// Roles with which something was made for a class, each with the external id that the class named last.
pub(crate) type Remembered = BTreeMap<Role, Option<String>>;

/// A role in a class's memory.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(flatten)]
    role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    external_id: Option<String>,
}

/// By the ARN of a role, the external ids to try; None is the one of the settings.
pub(crate) type ExternalIds = BTreeMap<String, BTreeSet<Option<String>>>;

/// What classes name now goes before what they remember and the settings say.
pub(crate) fn external_ids<'a>(
    classes: impl IntoIterator<Item = &'a EC2NodeClass>,
    region: &str,
) -> ExternalIds {
    let (mut all, mut named) = (ExternalIds::new(), ExternalIds::new());
    for class in classes {
        if let Ok(Some(role)) = Role::of_class(class, region) {
            named.entry(role.arn).or_default().insert(external_id(class));
        }
        for (role, id) in Role::all_of_class(class, region).unwrap_or_default() {
            all.entry(role.arn).or_default().extend([None, id]);
        }
    }
    all.extend(named);
    all
}

/// The external id that a class names.
pub(crate) fn external_id(class: &EC2NodeClass) -> Option<String> {
    annotation(class, EXTERNAL_ID)
}

/// One that is empty is as good as none, as a value of a chart that is not set.
fn annotation(class: &EC2NodeClass, key: &str) -> Option<String> {
    let annotations = class.metadata.annotations.as_ref();
    annotations?.get(key).filter(|value| !value.is_empty()).cloned()
}

/// Why there are no calls for a class, with the fix.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RoleError {
    #[error(
        "annotation {ARN}: {0:?} is not the ARN of a role, such as arn:aws:iam::123456789012:role/name; correct or \
         remove it"
    )]
    Arn(String),
    #[error(
        "annotation {ARN}: {arn} is in the partition {found}, and the region {region} in {expected}; name a role of \
         {expected}"
    )]
    Partition {
        arn: String,
        found: String,
        region: String,
        expected: &'static str,
    },
    #[error(
        "annotation {VPC_ID}: {0:?} is not the id of a VPC, such as vpc-0123456789abcdef0; correct or remove it"
    )]
    VpcId(String),
    #[error("annotation {0} means nothing without {ARN}: set that, or remove this")]
    NoArn(&'static str),
    #[error("annotation {0} cannot be read; it is the controller's own: restore what it was")]
    Unreadable(&'static str),
    #[error(
        "annotation {ASSUMED_ROLE} names {0}, which the claim's EC2NodeClass neither names nor remembers; restore what it was"
    )]
    NotOfClass(String),
    #[error(
        "annotation {ARN}: {arn} belongs to another account than the controller's identity ({account}); set \
         {EXTERNAL_ID}, or --assume-role-external-id, to the external id that its trust policy requires"
    )]
    NoExternalId { arn: String, account: String },
    #[error("annotation {ARN}: cannot assume {arn}: {why}")]
    Denied { arn: String, why: String },
    #[error("cannot assume {arn} of annotation {ARN} now: {why}")]
    NotNow { arn: String, why: String },
}

impl RoleError {
    /// It does not pass by itself.
    pub(crate) fn is_certain(&self) -> bool {
        !matches!(self, Self::NotNow { .. })
    }
}

impl From<RoleError> for ProviderError {
    fn from(error: RoleError) -> Self {
        if error.is_certain() {
            Self::Denied(error.to_string())
        } else {
            Self::Transient(error.to_string())
        }
    }
}

impl Role {
    /// The role of a class; None: the controller's own identity.
    pub(crate) fn of_class(class: &EC2NodeClass, region: &str) -> Result<Option<Self>, RoleError> {
        let (external_id, vpc_id) = (external_id(class), annotation(class, VPC_ID));
        let Some(arn) = annotation(class, ARN) else {
            return match (external_id, vpc_id) {
                (Some(_), _) => Err(RoleError::NoArn(EXTERNAL_ID)),
                (None, Some(_)) => Err(RoleError::NoArn(VPC_ID)),
                (None, None) => Ok(None),
            };
        };
        check_arn(&arn, region)?;
        if let Some(id) = vpc_id.as_ref().filter(|id| !is_vpc_id(id)) {
            return Err(RoleError::VpcId(id.clone()));
        }
        Ok(Some(Self { arn, vpc_id }))
    }

    /// The role that bought the machine of a claim, by the claim's word; None: the controller's own identity.
    pub(crate) fn of_claim(claim: &NodeClaim, region: &str) -> Result<Option<Self>, RoleError> {
        let annotations = claim.metadata.annotations.as_ref();
        let Some(text) = annotations.and_then(|a| a.get(ASSUMED_ROLE)) else {
            return Ok(None);
        };
        let role: Option<Self> = serde_json::from_str(text).ok();
        let role = role.filter(|role| role.is_sound(region));
        role.map(Some).ok_or(RoleError::Unreadable(ASSUMED_ROLE))
    }

    /// The same if the claim's class, unless it is gone, names or remembers the role: who may write claims or pools may
    /// not choose roles.
    pub(crate) fn of_claim_in(
        claim: &NodeClaim,
        class: Option<&EC2NodeClass>,
        region: &str,
    ) -> Result<Option<Self>, RoleError> {
        let said = Self::of_claim(claim, region)?;
        let (Some(role), Some(class)) = (&said, class) else {
            return Ok(said);
        };
        let named = Self::of_class(class, region).ok().flatten();
        if named.as_ref() == Some(role) || Self::all_of_class(class, region)?.contains_key(role) {
            return Ok(said);
        }
        Err(RoleError::NotOfClass(role.arn.clone()))
    }

    /// The roles with which something was made for a class that may still be there.
    pub(crate) fn all_of_class(class: &EC2NodeClass, region: &str) -> Result<Remembered, RoleError> {
        let annotations = class.metadata.annotations.as_ref();
        let Some(text) = annotations.and_then(|a| a.get(ALL_ASSUMED)) else {
            return Ok(Remembered::new());
        };
        let roles: Option<Vec<Entry>> = serde_json::from_str(text).ok();
        let roles = roles.filter(|roles| roles.iter().all(|entry| entry.role.is_sound(region)));
        let roles = roles.ok_or(RoleError::Unreadable(ALL_ASSUMED))?;
        Ok(roles.into_iter().map(|e| (e.role, e.external_id)).collect())
    }

    /// As the controller would have written it.
    fn is_sound(&self, region: &str) -> bool {
        check_arn(&self.arn, region).is_ok() && self.vpc_id.as_deref().is_none_or(is_vpc_id)
    }
}

/// Where the machine of a claim may be, if not under this role that the claim says: who edits claims may have removed what
/// the controller wrote.
pub(crate) fn elsewhere(said: Option<&Role>, remembered: Remembered) -> BTreeSet<Option<Role>> {
    let abroad = remembered.into_keys().map(Some);
    let all = [None].into_iter().chain(abroad);
    all.filter(|role| role.as_ref() != said).collect()
}

/// Whether the machine of a claim may be under one of these roles, which could not be asked.
pub(crate) fn claim_may_be_under_one_of(
    silent: &BTreeSet<Role>,
    claim: &NodeClaim,
    class: Option<&EC2NodeClass>,
    region: &str,
) -> bool {
    let said = match Role::of_claim_in(claim, class, region) {
        Ok(said) => said.is_some_and(|role| silent.contains(&role)),
        Err(_) => true,
    };
    said || class.is_some_and(|class| class_may_be_under_one_of(silent, class, region))
}

/// Whether there may be machines of a class under one of these roles.
pub(crate) fn class_may_be_under_one_of(silent: &BTreeSet<Role>, class: &EC2NodeClass, region: &str) -> bool {
    match Role::all_of_class(class, region) {
        Ok(remembered) => remembered.keys().any(|role| silent.contains(role)),
        Err(_) => true,
    }
}

/// Value of a claim's annotation.
pub(crate) fn written(role: &Role) -> String {
    serde_json::to_string(role).expect("texts can be written as JSON")
}

/// Value of a class's annotation.
pub(crate) fn remembered(roles: &Remembered) -> String {
    let entry = |(role, id): (&Role, &Option<String>)| Entry {
        role: role.clone(),
        external_id: id.clone(),
    };
    let entries: Vec<Entry> = roles.iter().map(entry).collect();
    serde_json::to_string(&entries).expect("texts can be written as JSON")
}

fn check_arn(arn: &str, region: &str) -> Result<(), RoleError> {
    let wrong = || RoleError::Arn(arn.to_owned());
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", _, resource] = parts.as_slice() else {
        return Err(wrong());
    };
    let name = resource.strip_prefix("role/").unwrap_or_default();
    let may_name = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-/".contains(c);
    if account_of(arn).is_none() || name.is_empty() || name.ends_with('/') || !name.chars().all(may_name) {
        return Err(wrong());
    }
    let expected = crate::session_policy::partition(region);
    if *partition != expected {
        return Err(RoleError::Partition {
            arn: arn.to_owned(),
            found: (*partition).to_owned(),
            region: region.to_owned(),
            expected,
        });
    }
    Ok(())
}

fn is_vpc_id(id: &str) -> bool {
    let digits = id.strip_prefix("vpc-").unwrap_or_default();
    !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use plimsoll_api::ec2nodeclass::EC2NodeClassSpec;

    use super::*;

    const ROLE: &str = "arn:aws:iam::210987654321:role/path/nodes";

    fn class(annotations: &[(&str, &str)]) -> EC2NodeClass {
        let mut class = EC2NodeClass::new("default", EC2NodeClassSpec::default());
        let pairs = annotations
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        class.metadata.annotations = Some(pairs.collect());
        class
    }

    fn role(vpc_id: Option<&str>) -> Role {
        Role {
            arn: ROLE.into(),
            vpc_id: vpc_id.map(str::to_owned),
        }
    }

    fn all(roles: &[(&Role, Option<&str>)]) -> Remembered {
        let pairs = roles.iter().map(|(r, id)| ((*r).clone(), id.map(str::to_owned)));
        pairs.collect()
    }

    #[test]
    fn a_class_names_a_role_an_external_id_and_a_vpc() {
        let read = |annotations: &[(&str, &str)]| Role::of_class(&class(annotations), "us-east-1");
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(
            read(&[(ARN, "")]),
            Ok(None),
            "as a value of a chart that is not set"
        );
        assert_eq!(read(&[(ARN, ROLE)]), Ok(Some(role(None))));
        let all = [(ARN, ROLE), (EXTERNAL_ID, "id"), (VPC_ID, "vpc-0a1b")];
        assert_eq!(read(&all), Ok(Some(role(Some("vpc-0a1b")))));
        assert_eq!(external_id(&class(&all)).as_deref(), Some("id"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_annotation_and_the_fix() {
        let cases: &[(&[(&str, &str)], &str, &[&str])] = &[
            (
                &[(ARN, "nodes")],
                "us-east-1",
                &[ARN, "\"nodes\"", "arn:aws:iam::"],
            ),
            (
                &[(ARN, "arn:aws:iam::12345:role/nodes")],
                "us-east-1",
                &[ARN, "12345"],
            ),
            (
                &[(ARN, "arn:aws:iam::210987654321:user/nodes")],
                "us-east-1",
                &[ARN, "user/nodes"],
            ),
            (
                &[(ARN, "arn:aws:iam::210987654321:role/")],
                "us-east-1",
                &[ARN, "role/"],
            ),
            (
                &[(ARN, "arn:aws:sts::210987654321:assumed-role/a/b")],
                "us-east-1",
                &[ARN, "assumed-role"],
            ),
            (&[(ARN, ROLE)], "cn-north-1", &[ARN, "aws-cn", "cn-north-1"]),
            (
                &[(ARN, ROLE), (VPC_ID, "subnet-1")],
                "us-east-1",
                &[VPC_ID, "subnet-1", "vpc-"],
            ),
            (&[(EXTERNAL_ID, "id")], "us-east-1", &[EXTERNAL_ID, ARN]),
            (&[(VPC_ID, "vpc-1")], "us-east-1", &[VPC_ID, ARN]),
        ];
        for (annotations, region, says) in cases {
            let error = Role::of_class(&class(annotations), region).expect_err("it is wrong");
            assert!(error.is_certain());
            for word in *says {
                assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
            }
        }
    }

    #[test]
    fn what_is_remembered_reads_as_it_was_written() {
        let all = all(&[(&role(None), None), (&role(Some("vpc-1")), Some("id"))]);
        let text = remembered(&all);
        let read = |annotations: &[(&str, &str)]| Role::all_of_class(&class(annotations), "us-east-1");
        assert_eq!(read(&[(ALL_ASSUMED, &text)]), Ok(all));
        assert_eq!(read(&[]), Ok(Remembered::new()));

        assert_eq!(Role::of_claim(&claim(None), "us-east-1"), Ok(None));
        let one = role(Some("vpc-1"));
        let of_claim = Role::of_claim(&claim(Some(&written(&one))), "us-east-1");
        assert_eq!(of_claim, Ok(Some(one)));
    }

    #[test]
    fn external_ids_are_what_classes_name_now_else_what_they_remember() {
        const OTHER: &str = "arn:aws:iam::333333333333:role/nodes";
        let kept = remembered(&all(&[(&role(None), Some("old")), (&role(Some("vpc-1")), None)]));
        let ids = |classes: &[&[(&str, &str)]]| -> Vec<(String, Vec<Option<String>>)> {
            let classes: Vec<_> = classes.iter().map(|annotations| class(annotations)).collect();
            let all = external_ids(&classes, "us-east-1").into_iter();
            all.map(|(arn, ids)| (arn, ids.into_iter().collect())).collect()
        };
        let id = |id: &str| Some(id.to_owned());
        let of = |arn: &str, ids: &[Option<String>]| (arn.to_owned(), ids.to_vec());
        assert_eq!(ids(&[]), []);
        assert_eq!(ids(&[&[(ALL_ASSUMED, &kept)]]), [of(ROLE, &[None, id("old")])]);
        let one = remembered(&all(&[(&role(None), Some("old"))]));
        assert_eq!(
            ids(&[&[(ALL_ASSUMED, &one)]]),
            [of(ROLE, &[None, id("old")])],
            "it may have been rotated since: the settings can say it"
        );
        let rotated: &[_] = &[(ARN, ROLE), (EXTERNAL_ID, "new"), (ALL_ASSUMED, &kept)];
        assert_eq!(ids(&[rotated]), [of(ROLE, &[id("new")])]);
        let unset: &[_] = &[(ARN, ROLE), (ALL_ASSUMED, &kept)];
        assert_eq!(ids(&[unset]), [of(ROLE, &[None])]);
        let other: &[_] = &[(ARN, OTHER), (EXTERNAL_ID, "other"), (ALL_ASSUMED, &kept)];
        assert_eq!(
            ids(&[other, rotated]),
            [of(ROLE, &[id("new")]), of(OTHER, &[id("other")])],
            "another class names the role now"
        );
        assert_eq!(ids(&[rotated, unset]), [of(ROLE, &[None, id("new")])]);
    }

    #[test]
    fn a_machine_that_is_not_where_its_claim_says_is_looked_for_where_its_class_has_bought() {
        let (one, two) = (role(None), role(Some("vpc-1")));
        let both = all(&[(&one, None), (&two, Some("id"))]);
        let found = |said, remembered| Vec::from_iter(elsewhere(said, remembered));
        assert_eq!(found(None, Remembered::new()), []);
        assert_eq!(
            found(None, both.clone()),
            [Some(one.clone()), Some(two.clone())],
            "as when the annotation was removed"
        );
        assert_eq!(found(Some(&one), both), [None, Some(two)]);
        assert_eq!(found(Some(&one), Remembered::new()), [None]);
    }

    #[test]
    fn a_machine_may_be_wherever_its_class_has_bought() {
        let (one, two) = (role(None), role(Some("vpc-1")));
        let of_one = claim(Some(&written(&one)));
        let both = remembered(&all(&[(&one, None), (&two, None)]));
        let only_one = remembered(&all(&[(&one, None)]));
        let silent = BTreeSet::from([two]);
        for (claim, memory, expected) in [
            (claim(None), None, false),
            (claim(None), Some("[]"), false),
            (claim(None), Some(&*only_one), false),
            (claim(None), Some(&*both), true),
            (claim(None), Some("?"), true),
            (of_one.clone(), Some(&*only_one), false),
            (of_one.clone(), Some(&*both), true),
            (of_one.clone(), Some("[]"), true),
            (of_one, None, false),
            (claim(Some("?")), None, true),
        ] {
            let class = memory.map(|text| class(&[(ALL_ASSUMED, text)]));
            let may_be = claim_may_be_under_one_of(&silent, &claim, class.as_ref(), "us-east-1");
            assert_eq!(may_be, expected, "{claim:?} {memory:?}");
        }
    }

    #[test]
    fn a_claim_of_an_old_external_id_names_the_same_role() {
        let text = format!(r#"{{"arn":"{ROLE}","externalId":"old","vpcId":"vpc-1"}}"#);
        let found = Role::of_claim(&claim(Some(&text)), "us-east-1");
        assert_eq!(found, Ok(Some(role(Some("vpc-1")))));
        assert!(!written(&role(None)).contains("xternal"));
    }

    fn claim(assumed: Option<&str>) -> NodeClaim {
        let mut claim = NodeClaim::new("c", Default::default());
        claim.metadata.annotations = assumed.map(|text| [(ASSUMED_ROLE.to_owned(), text.to_owned())].into());
        claim
    }

    /// Never taken for the controller's own: its machine would be looked for in the wrong account.
    #[test]
    fn what_the_controller_would_not_have_written_is_not_believed() {
        for text in [
            "",
            "arn",
            "null",
            r#"{"arn":"nodes"}"#,
            r#"{"arn":"arn:aws-cn:iam::210987654321:role/nodes"}"#,
            r#"{"arn":"arn:aws:iam::210987654321:role/nodes","vpcId":"*"}"#,
        ] {
            let of_claim = Role::of_claim(&claim(Some(text)), "us-east-1");
            assert_eq!(of_claim, Err(RoleError::Unreadable(ASSUMED_ROLE)), "{text}");
            let all = class(&[(ALL_ASSUMED, &format!("[{text}]"))]);
            let all = Role::all_of_class(&all, "us-east-1");
            if !text.is_empty() {
                assert_eq!(all, Err(RoleError::Unreadable(ALL_ASSUMED)), "{text}");
            }
        }
    }

    #[test]
    fn a_claim_is_believed_if_its_class_bears_it_out() {
        let (one, two) = (role(None), role(Some("vpc-1")));
        let of_one = claim(Some(&written(&one)));
        let remembers = remembered(&all(&[(&one, Some("id")), (&two, None)]));
        let other = remembered(&all(&[(&two, None)]));
        let not_of_class = Err(RoleError::NotOfClass(ROLE.into()));
        let unreadable = Err(RoleError::Unreadable(ALL_ASSUMED));
        for (annotations, expected) in [
            (Some(vec![(ARN, ROLE)]), Ok(Some(one.clone()))),
            (Some(vec![(ALL_ASSUMED, &*remembers)]), Ok(Some(one.clone()))),
            (
                Some(vec![(ARN, "nobody"), (ALL_ASSUMED, &*remembers)]),
                Ok(Some(one.clone())),
            ),
            (Some(vec![(ALL_ASSUMED, &*other)]), not_of_class.clone()),
            (Some(vec![(ARN, ROLE), (VPC_ID, "vpc-1")]), not_of_class.clone()),
            (Some(vec![]), not_of_class),
            (Some(vec![(ALL_ASSUMED, "?")]), unreadable),
            (None, Ok(Some(one.clone()))),
        ] {
            let class = annotations.as_deref().map(class);
            let found = Role::of_claim_in(&of_one, class.as_ref(), "us-east-1");
            assert_eq!(found, expected, "{annotations:?}");
            let home = Role::of_claim_in(&claim(None), class.as_ref(), "us-east-1");
            assert_eq!(home, Ok(None), "{annotations:?}");
        }
    }
}
