// Command peer solves a problem file with the scheduler of sigs.k8s.io/karpenter and prints what it did as
// JSON, so that the bench can price and verify both sides alike.
//
//	peer PROBLEM.json RUNS
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	fakeclient "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/go-logr/logr"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/fake"
	pack "sigs.k8s.io/karpenter/pkg/controllers/provisioning/scheduling"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/events"
	"sigs.k8s.io/karpenter/pkg/operator/injection"
	"sigs.k8s.io/karpenter/pkg/operator/options"
	"sigs.k8s.io/karpenter/pkg/scheduling"
	"sigs.k8s.io/karpenter/pkg/test"
)

// The provisioner gives a pass one minute and uses what it has by then.
const passLimit = time.Minute

type result struct {
	Runs      []run     `json:"runs"`
	Machines  []machine `json:"machines"`
	Unplaced  int       `json:"unplaced"`
	TimedOut  bool      `json:"timed_out"`
	PeakBytes int64     `json:"peak_bytes"`
}

type run struct {
	// Building topology and scheduler from plain pods.
	SetupSeconds float64 `json:"setup_seconds"`
	SolveSeconds float64 `json:"solve_seconds"`
}

type machine struct {
	Pool string   `json:"pool"`
	Type string   `json:"type"`
	Zone string   `json:"zone"`
	CT   string   `json:"ct"`
	Pods []string `json:"pods"`
}

func main() {
	if err := mainErr(); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func mainErr() error {
	if len(os.Args) != 3 {
		return errors.New("usage: peer PROBLEM.json RUNS")
	}
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	runs, err := strconv.Atoi(os.Args[2])
	if err != nil || runs < 1 {
		return fmt.Errorf("RUNS must be a positive number, not %q", os.Args[2])
	}
	var p problem
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("reading %s: %w", os.Args[1], err)
	}
	if len(p.Nodes) > 0 {
		return errors.New("problems with existing nodes are not supported here")
	}
	log.SetLogger(logr.Discard())

	var out result
	for range runs {
		if err := solve(p, &out); err != nil {
			return err
		}
		// A run that needs its whole minute says all it can.
		if out.TimedOut {
			break
		}
	}
	out.PeakBytes = peakBytes()
	return json.NewEncoder(os.Stdout).Encode(out)
}

// solve makes fresh pods, types and pools, since a scheduler keeps what it has placed, and solves once.
func solve(p problem, out *result) error {
	ctx := options.ToContext(injection.WithControllerName(context.Background(), "provisioner"), test.Options())
	opts := []pack.Options{pack.NumConcurrentReconciles(5)}
	if p.Policy.Preferences == "Ignore" {
		opts = append(opts, pack.IgnorePreferences)
	}
	if p.Policy.MinValues == "BestEffort" {
		opts = append(opts, pack.MinValuesPolicy(options.MinValuesPolicyBestEffort))
	}

	byName := map[string]*cloudprovider.InstanceType{}
	var all []*cloudprovider.InstanceType
	for _, t := range p.Types {
		built := t.build()
		byName[t.Name] = built
		all = append(all, built)
	}
	pools := p.pools()
	types := map[string][]*cloudprovider.InstanceType{}
	listed := map[string][]string{}
	for _, entry := range p.Pools {
		listed[entry.Name] = entry.Types
	}
	for _, pool := range pools {
		types[pool.Name] = all
		if names := listed[pool.Name]; names != nil {
			types[pool.Name] = nil
			for _, name := range names {
				types[pool.Name] = append(types[pool.Name], byName[name])
			}
		}
	}
	pods, volumes := p.pods()
	var daemons []*corev1.Pod
	for i, entry := range p.DaemonSets {
		daemons = append(daemons, entry.build(fmt.Sprintf("daemon-%07d", i)))
	}
	var namespaces []client.Object
	seen := map[string]bool{}
	addNamespace := func(name string, labels map[string]string) {
		if !seen[name] {
			seen[name] = true
			namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
		}
	}
	for name, namespace := range p.Namespaces {
		addNamespace(name, namespace.Labels)
	}
	for _, pod := range pods {
		addNamespace(pod.Namespace, nil)
	}

	kube := fakeclient.NewClientBuilder().WithObjects(namespaces...).Build()
	provider := fake.NewCloudProvider()
	provider.InstanceTypes = all
	realClock := &clock.RealClock{}
	cluster := state.NewCluster(realClock, kube, provider)

	start := time.Now()
	topology, err := pack.NewTopology(ctx, kube, cluster, nil, pools, types, pods, opts...)
	if err != nil {
		return fmt.Errorf("building topology: %w", err)
	}
	scheduler := pack.NewScheduler(ctx, kube, pools, cluster, nil, topology, types, daemons,
		events.NewRecorder(&record.FakeRecorder{}), realClock, volumes, nil, opts...)
	setup := time.Since(start)

	limited, cancel := context.WithTimeout(ctx, passLimit)
	defer cancel()
	start = time.Now()
	results, err := scheduler.Solve(limited, pods)
	took := time.Since(start)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("solving: %w", err)
	}
	out.Runs = append(out.Runs, run{SetupSeconds: setup.Seconds(), SolveSeconds: took.Seconds()})
	out.TimedOut = err != nil
	out.Machines, out.Unplaced = nil, len(pods)
	for _, claim := range results.NewNodeClaims {
		out.Machines = append(out.Machines, cheapest(claim))
		out.Unplaced -= len(claim.Pods)
	}
	return nil
}

// cheapest names the cheapest offering the claim may become.
func cheapest(claim *pack.NodeClaim) machine {
	found := machine{Pool: claim.NodePoolName}
	for _, pod := range claim.Pods {
		found.Pods = append(found.Pods, pod.Namespace+"/"+pod.Name)
	}
	best := -1.0
	for _, t := range claim.InstanceTypeOptions {
		for _, o := range t.Offerings.Available() {
			if !claim.Requirements.IsCompatible(o.Requirements, scheduling.AllowUndefinedWellKnownLabels) {
				continue
			}
			zone, ct := o.Requirements.Get(corev1.LabelTopologyZone).Any(), o.Requirements.Get(v1.CapacityTypeLabelKey).Any()
			better := best < 0 || o.Price < best ||
				(o.Price == best && t.Name+"/"+zone+"/"+ct < found.Type+"/"+found.Zone+"/"+found.CT)
			if better {
				best, found.Type, found.Zone, found.CT = o.Price, t.Name, zone, ct
			}
		}
	}
	return found
}

// peakBytes is the largest resident set this process had.
func peakBytes() int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib * 1024
		}
	}
	return 0
}
