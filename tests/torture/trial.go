package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// gracePeriod is the orphan grace period of the managers. It is above the 10 s of a
	// request, as it must be in production.
	gracePeriod = 12 * time.Second
	// opTimeout is how long an operation may take.
	opTimeout = 30 * time.Second
	// replicas is what deploy/ asks for.
	replicas = 2
	// roundLength is for how long things are broken before all has to settle again.
	roundLength = 4 * time.Minute
)

// trial is one run.
type trial struct {
	options  options
	stack    *stack.Stack
	to       *history.Writer
	recorder *recorder
	arenas   []*arena
	workers  []*worker
	// mover is nil if nothing is moved. moving is held while something is, and shared by what
	// must not happen meanwhile.
	mover  *mover
	moving sync.RWMutex
	// migrant is nil if no addresses are moved between pools.
	migrant *migrant
	// log is where goes what is not the result.
	log io.Writer

	// ours are the replicas, each with what is between it and the API server; programs are
	// all programs but the vCenter.
	ours     []*replica
	programs map[string]*kept

	ids, tenants atomic.Int64
	counts       struct {
		done, refused, failed, faults atomic.Int64
	}
}

// replica is one of the managers.
type replica struct {
	*kept
	manager *harness.Manager
	// through is by which it reaches the API server, and late what makes its watches late.
	through *harness.Forwarder
	late    *lateWatches
}

// torture runs a trial, and judges its history. The logs stay if that shows something.
func torture(ctx context.Context, o options) (err error) {
	s, err := stack.Start(ctx, stack.Options{
		WithoutManager: true, WithoutKubeadm: true, WithoutRateLimiting: true, Progress: os.Stderr,
		Plane: harness.Options{ControllerAccounts: true, KeepFiles: os.Getenv("KEEP_FILES") != ""},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(s.Plane.KeepLogs(ctx, err), s.Stop()) }()
	to, err := history.NewWriter(o.path)
	if err != nil {
		return err
	}
	_, etcd := s.Plane.Etcd()
	t := &trial{options: o, stack: s, to: to, recorder: newRecorder(etcd, to), log: os.Stderr, programs: map[string]*kept{}}
	to.Write(history.Record{Run: &history.Run{Seed: o.seed, Workers: o.workers, Minutes: o.minutes, GracePeriod: gracePeriod,
		Metal3Allocation: metal3Allocation(), Faults: t.faults()}})
	return errors.Join(t.run(ctx), to.Close(), judge(os.Stdout, o.path))
}

func (t *trial) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() { t.recorder.follow(ctx) })
	background.Go(func() { t.recorder.followVMs(ctx, t.stack.VCenter) })
	background.Go(func() { followLoad(ctx, t.to) })
	if err := t.startManagers(ctx); err != nil {
		return err
	}
	t.keepAll()
	for _, program := range t.programs {
		background.Go(func() { program.watch(ctx, t.log) })
	}
	if err := t.makeArenas(ctx); err != nil {
		return err
	}
	if t.options.moves {
		var err error
		if t.mover, err = t.newMover(ctx); t.mover != nil {
			defer func() { _ = t.mover.away.Stop() }()
		}
		if err != nil {
			return err
		}
	}
	if t.options.migrations {
		var err error
		if t.migrant, err = t.newMigrant(ctx); err != nil {
			return err
		}
	}
	for i := range t.options.workers {
		t.workers = append(t.workers, t.newWorker(i))
	}
	enemy := t.newNemesis()
	end := time.Now().Add(time.Duration(t.options.minutes) * time.Minute)
	for number := 1; time.Now().Before(end) && ctx.Err() == nil; number++ {
		t.round(ctx, number, enemy, min(roundLength, time.Until(end)))
		if err := t.settle(ctx); err != nil {
			return err
		}
	}
	return errors.Join(t.drain(ctx), t.recorder.err())
}

// startManagers starts the replicas, each with a way of its own to the API server.
func (t *trial) startManagers(ctx context.Context) error {
	installation, err := t.stack.Plane.InstallIssued(ctx, harness.Renewal{})
	if err != nil {
		return err
	}
	t.stack.Installation = installation
	for i := range replicas {
		late, err := newLateWatches(ctx, t.stack.Plane, installation.Identity(), fmt.Sprintf("late-%d", i))
		if err != nil {
			return err
		}
		through, err := t.stack.Plane.NewForwarder()
		if err != nil {
			return err
		}
		through.SetBackends(late.address)
		manager, err := installation.StartManager(ctx, harness.ManagerOptions{
			OrphanGracePeriod: gracePeriod, Through: through, Args: t.options.args, OwnClock: t.options.clocks,
		})
		if err != nil {
			return err
		}
		t.stack.Managers = append(t.stack.Managers, manager)
		program := &kept{name: manager.Name, process: manager.Process, start: manager.Start, stop: manager.Stop}
		t.ours = append(t.ours, &replica{kept: program, manager: manager, through: through, late: late})
	}
	return nil
}

// keepAll has every program started again when it ends.
func (t *trial) keepAll() {
	etcd, _ := t.stack.Plane.Etcd()
	for _, process := range []*harness.Process{
		etcd, t.stack.Plane.APIServer(), t.stack.Plane.ControllerManager(), t.stack.CertManager,
		t.stack.ClusterAPI.Process, t.stack.CAPV.Process, t.stack.Metal3.Process, t.stack.InCluster.Process,
	} {
		t.programs[process.Name] = keep(process)
	}
	for _, r := range t.ours {
		t.programs[r.name] = r.kept
	}
}

// round lets workers and the nemesis loose for a while, and mends everything.
func (t *trial) round(ctx context.Context, number int, enemy *nemesis, during time.Duration) {
	fmt.Printf("round %d: %s\n", number, during.Round(time.Second))
	working, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	var all sync.WaitGroup
	for _, w := range t.workers {
		all.Go(func() { w.run(working) })
	}
	all.Go(func() { enemy.run(working) })
	if t.mover != nil {
		all.Go(func() { t.mover.run(working) })
	}
	if t.migrant != nil {
		all.Go(func() { t.migrant.run(working) })
	}
	all.Go(func() { t.tell(working) })
	all.Wait()
	for _, program := range t.programs {
		program.mu.Lock()
		if err := program.run(ctx); err != nil {
			fmt.Fprintln(t.log, err)
		}
		program.mu.Unlock()
	}
}

// tell says how far the run is.
func (t *trial) tell(ctx context.Context) {
	ticker := time.NewTicker(15 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			fmt.Printf("  operations: %d done, %d refused, %d failed; %d faults\n",
				t.counts.done.Load(), t.counts.refused.Load(), t.counts.failed.Load(), t.counts.faults.Load())
		}
	}
}

// do is an operation of a worker, which is counted.
func (t *trial) do(ctx context.Context, op history.Op, act func(context.Context) error) error {
	err := t.record(ctx, opTimeout, op, act)
	switch outcomeOf(err) {
	case history.Done:
		t.counts.done.Add(1)
	case history.Refused:
		t.counts.refused.Add(1)
	default:
		t.counts.failed.Add(1)
	}
	return err
}

// record has an operation go into the history, with its outcome.
func (t *trial) record(ctx context.Context, timeout time.Duration, op history.Op, act func(context.Context) error) error {
	op.ID, op.Phase = int(t.ids.Add(1)), history.Begin
	begin := op
	t.to.Write(history.Record{Op: &begin})
	// What was begun is not cut off by the end of the round.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	err := act(ctx)
	op.Phase, op.Outcome = history.End, outcomeOf(err)
	if err != nil {
		op.Text = err.Error()
	}
	t.to.Write(history.Record{Op: &op})
	return err
}

// notCalled is what the API server says when it could not ask a webhook.
const notCalled = "failed calling webhook"

func outcomeOf(err error) history.Outcome {
	switch {
	case err == nil:
		return history.Done
	case strings.Contains(err.Error(), notCalled):
		return history.Failed
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return history.Refused
	default:
		return history.Failed
	}
}

// fault is something that the nemesis does, from its begin until it is mended.
func (t *trial) fault(kind, target string, act func() error) {
	f := history.Fault{ID: int(t.ids.Add(1)), Kind: kind, Target: target, Phase: history.Begin}
	begin := f
	t.to.Write(history.Record{Fault: &begin})
	t.counts.faults.Add(1)
	f.Phase = history.End
	if err := act(); err != nil {
		f.Text = err.Error()
	}
	t.to.Write(history.Record{Fault: &f})
}
