//! What a class leaves behind under a role that it does not name any more, and at its end.

use kube::api::{Patch, PatchParams};
use plimsoll_api::{ec2nodeclass::EC2NodeClass, nodeclaim::NodeClaim};
use plimsoll_provider::ProviderError;
use serde_json::json;

use super::{Classes, PassError, instance_profile};
use crate::{
    account::{Account, in_time},
    credentials::account_of,
    role::{ALL_ASSUMED, Remembered, Role, remembered},
};

impl Classes {
    /// Clears up under former roles, and forgets those where nothing is left.
    pub(super) async fn leave_former_roles(
        &self,
        class: EC2NodeClass,
        present: Option<&Role>,
    ) -> Result<EC2NodeClass, PassError> {
        let known = Role::all_of_class(&class, &self.cluster.region).map_err(ProviderError::from)?;
        let former: Vec<&Role> = known.keys().filter(|role| Some(*role) != present).collect();
        if former.is_empty() {
            return Ok(class);
        }
        let name = class.metadata.name.clone().unwrap_or_default();
        let claims = self.claims_of(&name).await?;
        let mut kept = known.clone();
        for role in former {
            if claims
                .iter()
                .any(|claim| may_be_under(claim, role, &self.cluster.region))
            {
                continue;
            }
            let cleared = async {
                let account = self.accounts.of(Some(role)).await?;
                if is_shared(role, self.accounts.home_id().await?, &kept) {
                    return has_left(&account, &name).await;
                }
                self.clear_up(&class, &account).await
            };
            match in_time(Box::pin(cleared)).await {
                Ok(true) => {
                    kept.remove(role);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(ec2nodeclass = name, role = role.arn, %error, "a former role is not cleared up");
                }
            }
        }
        if kept == known {
            return Ok(class);
        }
        let value = (!kept.is_empty()).then(|| remembered(&kept));
        let patch = Patch::Merge(json!({ "metadata": {
            "resourceVersion": class.metadata.resource_version,
            "annotations": { ALL_ASSUMED: value },
        } }));
        Ok(self.api().patch(&name, &PatchParams::default(), &patch).await?)
    }

    /// Removes profiles and launch templates of a class that no claim uses there. False: not yet, for there may be a
    /// machine of the class left, which has lost its claim and which the garbage collection will end as long as it knows
    /// where.
    pub(super) async fn clear_up(
        &self,
        class: &EC2NodeClass,
        account: &Account,
    ) -> Result<bool, ProviderError> {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        if account.role.is_some() && !has_left(account, name).await? {
            return Ok(false);
        }
        // In a former account there may be a profile although the class names one itself by now.
        let may_have_profiles = class.spec.role.is_some() || account.role.is_some();
        if !self.settings.isolated_vpc && may_have_profiles {
            instance_profile::remove_of_class(&account.iam, &account.cluster, class).await?;
        }
        account.templates.remove_of_class(name).await?;
        Ok(true)
    }
}

/// Whether there is certainly no machine of a class any more.
async fn has_left(account: &Account, class: &str) -> Result<bool, ProviderError> {
    let left = account.shows_all() && !account.instances.are_of_class(class).await?;
    if !left {
        let role = account.name();
        tracing::info!(
            ec2nodeclass = class,
            role,
            "machines of a class may still be there"
        );
    }
    Ok(left)
}

/// Whether something else of a class may be in the account of its former role, so that profiles and templates there must
/// stay: they are the class's, and not its role's. The last role of an account clears up; at home that is done anyway.
fn is_shared(role: &Role, home: &str, all: &Remembered) -> bool {
    let account = account_of(&role.arn);
    let mut others = all.keys().filter(|other| *other != role);
    account == Some(home) || others.any(|other| account_of(&other.arn) == account)
}

/// A claim whose machine is not recorded may have one anywhere.
fn may_be_under(claim: &NodeClaim, role: &Role, region: &str) -> bool {
    let launched = claim.status.as_ref().is_some_and(|s| s.provider_id.is_some());
    match Role::of_claim(claim, region) {
        Ok(of_claim) => !launched || of_claim.as_ref() == Some(role),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_api::labels::ASSUMED_ROLE;

    use super::*;
    use crate::{account::Unclear, fake, launches::VISIBLE_WITHIN, role::written};

    #[tokio::test(start_paused = true)]
    async fn an_empty_list_is_believed_once_it_shows_every_launch() {
        let identity = fake::Aws::default().identity();
        let account = Account::new(None, &identity, fake::cluster(), false, Unclear::default());
        let left = async || has_left(&account, "default").await.unwrap();
        assert!(!left().await, "a former process may have launched until now");
        tokio::time::advance(VISIBLE_WITHIN).await;
        assert!(left().await);
        drop(account.launching());
        assert!(!left().await, "a launch was not answered");
        tokio::time::advance(VISIBLE_WITHIN).await;
        assert!(left().await);
    }

    #[test]
    fn what_another_role_of_the_same_account_may_use_stays_there() {
        const HOME: &str = "123456789012";
        let role = |account: &str, name: &str, vpc_id: Option<&str>| Role {
            arn: format!("arn:aws:iam::{account}:role/{name}"),
            vpc_id: vpc_id.map(str::to_owned),
        };
        let former = role("210987654321", "a", Some("vpc-1"));
        for (others, expected) in [
            (vec![], false),
            (vec![role("210987654321", "a", Some("vpc-2"))], true),
            (vec![role("210987654321", "b", Some("vpc-1"))], true),
            (vec![role("333333333333", "a", Some("vpc-1"))], false),
        ] {
            let all = others.into_iter().chain([former.clone()]);
            let all = all.map(|role| (role, None)).collect();
            assert_eq!(is_shared(&former, HOME, &all), expected, "{all:?}");
        }
        let at_home = role(HOME, "a", None);
        assert!(is_shared(&at_home, HOME, &[(at_home.clone(), None)].into()));
    }

    #[test]
    fn a_role_is_kept_as_long_as_a_claim_may_need_it() {
        let role = |name: &str| Role {
            arn: format!("arn:aws:iam::210987654321:role/{name}"),
            vpc_id: None,
        };
        let claim = |annotation: Option<String>, launched: bool| -> NodeClaim {
            let mut claim = json!({
                "metadata": { "name": "c", "annotations": {} },
                "spec": { "requirements": [],
                    "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } },
            });
            if let Some(text) = annotation {
                claim["metadata"]["annotations"][ASSUMED_ROLE] = json!(text);
            }
            if launched {
                claim["status"] = json!({ "providerID": "aws:///a/i-1" });
            }
            serde_json::from_value(claim).unwrap()
        };
        let (a, b) = (role("a"), role("b"));
        for (claim, expected) in [
            (claim(Some(written(&a)), true), true),
            (claim(Some(written(&b)), true), false),
            (claim(None, true), false),
            (claim(None, false), true),
            (claim(Some("?".into()), true), true),
        ] {
            assert_eq!(may_be_under(&claim, &a, "us-east-1"), expected, "{claim:?}");
        }
    }
}
