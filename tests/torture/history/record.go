// Package history is what happened in a run of tests/torture, and the proof that
// nothing happened which must not. It knows the objects by what is stored of them, and
// shares no code with what it judges.
//
// A history is a file with a record on each line. Changes of objects are those that
// etcd made, and so in one order for all kinds, that of their revisions. Those of
// virtual machines are noted by the vCenter while it makes them. The time of a change of an
// object is when it was seen: it was made then, or before.
package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Record is a line of a history. It has one of the parts.
type Record struct {
	Time time.Time `json:"time"`

	Run    *Run    `json:"run,omitempty"`
	Op     *Op     `json:"op,omitempty"`
	Fault  *Fault  `json:"fault,omitempty"`
	Object *Object `json:"object,omitempty"`
	VM     *VM     `json:"vm,omitempty"`
	Load   *Load   `json:"load,omitempty"`
	Mark   Mark    `json:"mark,omitempty"`
}

// Run is the first record: what the run was started with.
type Run struct {
	Seed    uint64 `json:"seed"`
	Workers int    `json:"workers"`
	Minutes int    `json:"minutes"`
	// GracePeriod is for how long the managers leave a claim alone that nobody uses.
	GracePeriod time.Duration `json:"gracePeriod"`
	// Metal3Allocation is the way in which addresses of metal3's pools are asked for.
	Metal3Allocation string `json:"metal3Allocation,omitempty"`
	// Faults are the kinds to choose from.
	Faults []string `json:"faults,omitempty"`
}

// Load is how busy the machine was on which all of it ran, since the one before.
type Load struct {
	// Late is by how much somebody woke up too late, at the worst: nothing that ran here can
	// be asked to be quicker.
	Late time.Duration `json:"late"`
	// Waiting is how many programs ran or wanted to, as the kernel counts in a minute.
	Waiting float64 `json:"waiting,omitempty"`
}

// Mark is a moment for which something is claimed.
type Mark string

const (
	// Settled is when all that was broken works again, nobody changes anything, and
	// the grace period is over, with room for what was late.
	Settled Mark = "settled"
	// Drained is the same after everything has been deleted.
	Drained Mark = "drained"
)

// Phase says whether something begins or has ended.
type Phase string

// The phases of operations and faults.
const (
	Begin Phase = "begin"
	End   Phase = "end"
)

// Outcome is how an operation ended.
type Outcome string

const (
	// Done is what was asked for.
	Done Outcome = "done"
	// Refused is by a webhook or a policy: nothing was changed.
	Refused Outcome = "refused"
	// Failed may have changed something or not.
	Failed Outcome = "failed"
)

// Op is the begin or the end of something that a worker does.
type Op struct {
	// ID is the same for its begin and its end.
	ID     int    `json:"id"`
	Worker int    `json:"worker"`
	Kind   string `json:"kind"`
	Phase  Phase  `json:"phase"`
	// Namespace and Name are those of what it is about.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Pools are those that an address is asked of, as in "IPPool/workers".
	Pools   []string `json:"pools,omitempty"`
	Outcome Outcome  `json:"outcome,omitempty"`
	// Text is the answer, where it is no success.
	Text string `json:"text,omitempty"`
}

// Fault is the begin or the end of something that the nemesis does.
type Fault struct {
	ID     int    `json:"id"`
	Kind   string `json:"kind"`
	Phase  Phase  `json:"phase"`
	Target string `json:"target,omitempty"`
	Text   string `json:"text,omitempty"`
}

// VM is what happened to a virtual machine.
type VM struct {
	Sequence int    `json:"sequence"`
	Kind     VMKind `json:"kind"`
	// ID is unique for ever; a name can come again.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Addresses are those of its metadata, without the prefix length.
	Addresses []string `json:"addresses,omitempty"`
}

// VMKind is what happened to a virtual machine.
type VMKind string

const (
	// Configured is when it is given metadata, other than before.
	Configured VMKind = "configured"
	// Destroyed is when it is about to be no more.
	Destroyed VMKind = "destroyed"
)

// Writer writes a history.
type Writer struct {
	mu     sync.Mutex
	file   *os.File
	buffer *bufio.Writer
	failed error
}

// NewWriter makes the file of a history.
func NewWriter(path string) (*Writer, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("making the history: %w", err)
	}
	return &Writer{file: file, buffer: bufio.NewWriter(file)}, nil
}

// Write adds a record, with the time of now if it has none. What fails is said by Close.
func (w *Writer) Write(r Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	line, err := json.Marshal(r)
	if err == nil {
		_, err = w.buffer.Write(append(line, '\n'))
	}
	w.failed = errors.Join(w.failed, err)
}

// Flush makes what was written readable.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = errors.Join(w.failed, w.buffer.Flush())
	return w.failed
}

// Close ends the history.
func (w *Writer) Close() error { return errors.Join(w.Flush(), w.file.Close()) }

// ReadFile reads a history.
func ReadFile(path string) ([]Record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the history: %w", err)
	}
	defer file.Close()
	return Read(file)
}

// Read reads the records of a history. The last line may be cut off.
func Read(from io.Reader) ([]Record, error) {
	var records []Record
	decoder := json.NewDecoder(bufio.NewReader(from))
	for {
		var r Record
		err := decoder.Decode(&r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return records, nil
		case err != nil:
			return nil, fmt.Errorf("reading record %d of the history: %w", len(records)+1, err)
		}
		records = append(records, r)
	}
}
