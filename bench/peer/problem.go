package main

import (
	"encoding/json"
	"fmt"
	"math"
	"sort"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/scheduling"
)

// The problem files of ../FORMAT.md, as far as the peer can take them. Existing nodes are refused.
type problem struct {
	Types      []instanceType `json:"types"`
	Pods       []pod          `json:"pods"`
	Pools      []pool         `json:"pools"`
	Nodes      []any          `json:"nodes"`
	DaemonSets []pod          `json:"daemonSets"`
	Namespaces map[string]struct {
		Labels map[string]string `json:"labels"`
	} `json:"namespaces"`
	Policy struct {
		Preferences string `json:"preferences"`
		MinValues   string `json:"minValues"`
	} `json:"policy"`
}

type instanceType struct {
	Name      string            `json:"name"`
	CPU       amount            `json:"cpu"`
	Mem       amount            `json:"mem"`
	Pods      amount            `json:"pods"`
	Resources map[string]amount `json:"resources"`
	Capacity  map[string]amount `json:"capacity"`
	Labels    map[string]values `json:"labels"`
	Offerings []offering        `json:"offerings"`
}

type offering struct {
	Zone        string            `json:"zone"`
	CT          string            `json:"ct"`
	Price       float64           `json:"price"`
	Available   *bool             `json:"available"`
	Labels      map[string]string `json:"labels"`
	Reservation *struct {
		ID        string `json:"id"`
		Remaining int    `json:"remaining"`
	} `json:"reservation"`
}

type pod struct {
	Name                      string                            `json:"name"`
	Namespace                 string                            `json:"namespace"`
	Count                     *int                              `json:"count"`
	CPU                       amount                            `json:"cpu"`
	Mem                       amount                            `json:"mem"`
	Resources                 map[string]amount                 `json:"resources"`
	Labels                    map[string]string                 `json:"labels"`
	NodeSelector              map[string]string                 `json:"nodeSelector"`
	Affinity                  *corev1.Affinity                  `json:"affinity"`
	Tolerations               []corev1.Toleration               `json:"tolerations"`
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints"`
	HostPorts                 []struct {
		HostPort int32           `json:"hostPort"`
		HostIP   string          `json:"hostIP"`
		Protocol corev1.Protocol `json:"protocol"`
	} `json:"hostPorts"`
	Volumes []struct {
		NodeSelectorTerms []corev1.NodeSelectorTerm `json:"nodeSelectorTerms"`
	} `json:"volumes"`
	Priority *int32 `json:"priority"`
}

type pool struct {
	Name          string                                    `json:"name"`
	Weight        *int32                                    `json:"weight"`
	Limits        map[string]amount                         `json:"limits"`
	Labels        map[string]string                         `json:"labels"`
	Requirements  []v1.NodeSelectorRequirementWithMinValues `json:"requirements"`
	Taints        []corev1.Taint                            `json:"taints"`
	StartupTaints []corev1.Taint                            `json:"startupTaints"`
	Types         []string                                  `json:"types"`
}

// A number in the unit of its field, or a quantity as text.
type amount struct {
	number *float64
	text   string
}

func (a *amount) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &a.text)
	}
	return json.Unmarshal(data, &a.number)
}

// quantity reads a bare number as so many thousandths of base units times unit.
func (a amount) quantity(milliPerUnit float64) resource.Quantity {
	switch {
	case a.text != "":
		return resource.MustParse(a.text)
	case a.number == nil:
		return resource.Quantity{}
	}
	milli := math.Ceil(*a.number * milliPerUnit)
	if math.Mod(milli, 1000) == 0 {
		return *resource.NewQuantity(int64(milli/1000), resource.DecimalSI)
	}
	return *resource.NewMilliQuantity(int64(milli), resource.DecimalSI)
}

// One value or several.
type values []string

func (v *values) UnmarshalJSON(data []byte) error {
	if data[0] == '[' {
		return json.Unmarshal(data, (*[]string)(v))
	}
	var one string
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*v = values{one}
	return nil
}

const (
	milliCPU = 1
	mebibyte = 1 << 20 * 1000
	piece    = 1000
)

func resources(cpu, mem, pods amount, more map[string]amount) corev1.ResourceList {
	list := corev1.ResourceList{}
	put := func(name corev1.ResourceName, q resource.Quantity) {
		if !q.IsZero() {
			list[name] = q
		}
	}
	put(corev1.ResourceCPU, cpu.quantity(milliCPU))
	put(corev1.ResourceMemory, mem.quantity(mebibyte))
	put(corev1.ResourcePods, pods.quantity(piece))
	for name, a := range more {
		put(corev1.ResourceName(name), named(name, a))
	}
	return list
}

func named(name string, a amount) resource.Quantity {
	if name == string(corev1.ResourceCPU) {
		return a.quantity(milliCPU)
	}
	return a.quantity(piece)
}

func (t instanceType) build() *cloudprovider.InstanceType {
	allocatable := resources(t.CPU, t.Mem, t.Pods, t.Resources)
	capacity := allocatable.DeepCopy()
	for name, a := range t.Capacity {
		capacity[corev1.ResourceName(name)] = named(name, a)
	}
	overhead := corev1.ResourceList{}
	for name, q := range capacity {
		rest := q.DeepCopy()
		rest.Sub(allocatable[name])
		if !rest.IsZero() {
			overhead[name] = rest
		}
	}
	labels := map[string]values{corev1.LabelArchStable: {"amd64"}, corev1.LabelOSStable: {"linux"}}
	for key, vs := range t.Labels {
		labels[key] = vs
	}
	labels[corev1.LabelInstanceTypeStable] = values{t.Name}
	var offerings cloudprovider.Offerings
	var zones, capacityTypes values
	for _, o := range t.Offerings {
		keys := map[string]string{corev1.LabelTopologyZone: o.Zone, v1.CapacityTypeLabelKey: o.CT}
		for key, value := range o.Labels {
			keys[key] = value
		}
		built := &cloudprovider.Offering{
			Requirements: scheduling.NewLabelRequirements(keys),
			Price:        o.Price,
			Available:    o.Available == nil || *o.Available,
		}
		if o.Reservation != nil {
			built.Requirements.Add(scheduling.NewRequirement(
				cloudprovider.ReservationIDLabel, corev1.NodeSelectorOpIn, o.Reservation.ID))
			built.ReservationCapacity = o.Reservation.Remaining
		}
		offerings = append(offerings, built)
		zones, capacityTypes = append(zones, o.Zone), append(capacityTypes, o.CT)
	}
	labels[corev1.LabelTopologyZone], labels[v1.CapacityTypeLabelKey] = zones, capacityTypes
	requirements := scheduling.NewRequirements()
	for key, vs := range labels {
		// A key that instance types define is well known: pods may ask for it without the pool naming it.
		v1.WellKnownLabels.Insert(key)
		requirements.Add(scheduling.NewRequirement(key, corev1.NodeSelectorOpIn, vs...))
	}
	return &cloudprovider.InstanceType{
		Name:         t.Name,
		Requirements: requirements,
		Offerings:    offerings,
		Capacity:     capacity,
		Overhead:     &cloudprovider.InstanceTypeOverhead{KubeReserved: overhead},
	}
}

func (p pod) build(name string) *corev1.Pod {
	namespace := p.Namespace
	if namespace == "" {
		namespace = "default"
	}
	requests := resources(p.CPU, p.Mem, amount{}, p.Resources)
	container := corev1.Container{
		Name:      "main",
		Resources: corev1.ResourceRequirements{Requests: requests, Limits: corev1.ResourceList{}},
	}
	for _, port := range p.HostPorts {
		protocol := port.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		container.Ports = append(container.Ports,
			corev1.ContainerPort{HostPort: port.HostPort, HostIP: port.HostIP, Protocol: protocol})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:      name,
			Namespace: namespace,
			Labels:    p.Labels,
			UID:       types.UID(namespace + "/" + name),
		},
		Spec: corev1.PodSpec{
			Containers:                []corev1.Container{container},
			NodeSelector:              p.NodeSelector,
			Affinity:                  p.Affinity.DeepCopy(),
			Tolerations:               p.Tolerations,
			TopologySpreadConstraints: p.TopologySpreadConstraints,
			Priority:                  p.Priority,
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

// pods expands the entries under the names that the other side gives them.
func (p problem) pods() ([]*corev1.Pod, map[types.UID][]scheduling.Requirements) {
	var all []*corev1.Pod
	volumes := map[types.UID][]scheduling.Requirements{}
	for i, entry := range p.Pods {
		name := entry.Name
		if name == "" {
			name = fmt.Sprintf("pod-%07d", i)
		}
		names := []string{name}
		if entry.Count != nil {
			names = nil
			for n := range *entry.Count {
				names = append(names, fmt.Sprintf("%s-%07d", name, n))
			}
		}
		for _, name := range names {
			built := entry.build(name)
			all = append(all, built)
			if alternatives := entry.reach(); alternatives != nil {
				volumes[built.UID] = alternatives
			}
		}
	}
	return all, volumes
}

// reach is the cross product of the volumes' alternatives.
func (p pod) reach() []scheduling.Requirements {
	var product []scheduling.Requirements
	for _, volume := range p.Volumes {
		if len(volume.NodeSelectorTerms) == 0 {
			continue
		}
		before := product
		if before == nil {
			before = []scheduling.Requirements{scheduling.NewRequirements()}
		}
		product = nil
		for _, base := range before {
			for _, term := range volume.NodeSelectorTerms {
				next := scheduling.NewRequirements(base.Values()...)
				next.Add(scheduling.NewNodeSelectorRequirements(term.MatchExpressions...).Values()...)
				product = append(product, next)
			}
		}
	}
	return product
}

// pools are sorted as the provisioner sorts them: by weight, then by name, both descending.
func (p problem) pools() []*v1.NodePool {
	entries := p.Pools
	if entries == nil {
		entries = []pool{{Name: "default"}}
	}
	var pools []*v1.NodePool
	for _, entry := range entries {
		limits := v1.Limits{}
		for name, a := range entry.Limits {
			limits[corev1.ResourceName(name)] = named(name, a)
		}
		built := &v1.NodePool{ObjectMeta: metav1.ObjectMeta{Name: entry.Name, UID: types.UID(entry.Name)}}
		built.Spec.Weight = entry.Weight
		built.Spec.Limits = limits
		built.Spec.Template.Labels = entry.Labels
		built.Spec.Template.Spec.NodeClassRef = &v1.NodeClassReference{Group: "plimsoll.dev", Kind: "None", Name: "none"}
		built.Spec.Template.Spec.Requirements = entry.Requirements
		built.Spec.Template.Spec.Taints = entry.Taints
		built.Spec.Template.Spec.StartupTaints = entry.StartupTaints
		pools = append(pools, built)
	}
	weight := func(i int) int32 {
		if pools[i].Spec.Weight == nil {
			return 0
		}
		return *pools[i].Spec.Weight
	}
	sort.SliceStable(pools, func(i, j int) bool {
		if weight(i) != weight(j) {
			return weight(i) > weight(j)
		}
		return pools[i].Name > pools[j].Name
	})
	return pools
}
