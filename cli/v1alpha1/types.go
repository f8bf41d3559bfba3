// Package v1alpha1 has the objects that kubectl static-ip prints with -o json or yaml: a List
// of one of the kinds below. Within this version fields may be added; none is renamed or
// taken away, and none gets another meaning.
package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// APIVersion is that of all of them.
const APIVersion = "cli.capv-static-ip.dev/v1alpha1"

// List is what one command prints. Its kind is that of its items with List after it.
type List[T any] struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct{} `json:"metadata"`
	Items           []T      `json:"items"`
}

// Meta names what an item is about.
type Meta struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Pool is printed by pools. Numbers are texts: those of IPv6 are large. Total, reserved and
// free are left out where the provider does not say them.
type Pool struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	Pool            string `json:"pool"`
	Total           string `json:"total,omitempty"`
	Used            int    `json:"used"`
	Cooling         int    `json:"cooling"`
	Reserved        string `json:"reserved,omitempty"`
	Free            string `json:"free,omitempty"`
	Surge           int    `json:"surge"`
	Waiting         int    `json:"waiting"`
	// Problems are how many findings of the audit are in the pool.
	Problems int    `json:"problems"`
	Status   string `json:"status"`
}

// Holding is printed by pool: an address that somebody has, or of which something is wrong.
type Holding struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	Address         string `json:"address"`
	State           string `json:"state"`
	// Holder is empty for an address that nobody has.
	Holder    string `json:"holder"`
	Device    string `json:"device,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	VM        string `json:"vm,omitempty"`
	Protected bool   `json:"protected"`
	// Problem says what is wrong with it, after the number of the check.
	Problem string `json:"problem,omitempty"`
}

// Machine is printed by machines.
type Machine struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta     `json:"metadata"`
	Addresses       []string `json:"addresses"`
	Pools           []string `json:"pools,omitempty"`
	Cluster         string   `json:"cluster,omitempty"`
	VM              string   `json:"vm,omitempty"`
	// WaitingFor is what a machine without an address waits for.
	WaitingFor string `json:"waitingFor,omitempty"`
}

// Explanation is printed by explain, and as an Address by who.
type Explanation struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta     `json:"metadata"`
	Title           string   `json:"title"`
	Lines           []string `json:"lines"`
	Next            string   `json:"next,omitempty"`
	// See are pages of the documentation on what is wrong.
	See   []string `json:"see,omitempty"`
	Wrong bool     `json:"wrong"`
}

// Demand is printed by capacity: what a workload needs of a pool.
type Demand struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	Pool            string `json:"pool"`
	// Else are pools that will do as well; free and cooling are those of all.
	Else      []string `json:"else,omitempty"`
	Owner     string   `json:"owner"`
	Free      string   `json:"free,omitempty"`
	Has       int      `json:"has"`
	RollOut   int      `json:"rollOut"`
	Scale     int      `json:"scale"`
	Max       int      `json:"autoscalerMax"`
	Cools     int      `json:"cools"`
	AllOwners int      `json:"allOwners"`
	Short     int      `json:"short"`
	Note      string   `json:"note,omitempty"`
}

// Check is printed by check.
type Check struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	State           string `json:"state"`
	Found           string `json:"found"`
	Remedy          string `json:"remedy,omitempty"`
}

// Finding is printed by audit.
type Finding struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	Severity        string `json:"severity"`
	Check           string `json:"check"`
	Object          string `json:"object"`
	Finding         string `json:"finding"`
	Remedy          string `json:"remedy"`
}

// Step is printed by uninstall and adopt-adapter: a step of theirs.
type Step struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	Does            string `json:"does"`
	// Objects are what there is to do for it, in words.
	Objects []string `json:"objects,omitempty"`
	// AlreadyDone counts what has been done already, where that can be told.
	AlreadyDone int `json:"alreadyDone,omitempty"`
}

// Move is printed by migrate: an address of a machine that is to be moved to another pool.
type Move struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta `json:"metadata"`
	// State is ready, waiting, half-way, blocked or leaving.
	State   string `json:"state"`
	Address string `json:"address"`
	// From and To are claims, and Pool is the new pool.
	From string `json:"from"`
	To   string `json:"to"`
	Pool string `json:"pool"`
	// Obstacle says what stands in the way of a machine that is blocked, or waits.
	Obstacle string `json:"obstacle,omitempty"`
}

// Reservation is printed by reserve: an address that a pool is to give to nobody.
type Reservation struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	Pool            string `json:"pool"`
	Address         string `json:"address"`
	// State is what becomes of the address now, as in a Holding.
	State string `json:"state"`
	// Writes is what is written to the pool, empty where that is nothing.
	Writes string `json:"writes,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Obstacle says why it cannot be done.
	Obstacle string `json:"obstacle,omitempty"`
}

// Version is printed by version.
type Version struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Meta   `json:"metadata"`
	Version         string `json:"version"`
	Image           string `json:"image,omitempty"`
	// Where is the Deployment of the manager.
	Where string `json:"where,omitempty"`
	Skew  string `json:"skew,omitempty"`
}
