import sys, pickle, time, numpy as np
from pathlib import Path
from bdbench import experiment
from bdbench.images.data import Role
from bdbench_datamodel import evidence, withheld
OUT = Path("/work/tmp/tr/"+__import__("os").environ.get("SETS","sets4")); OUT.mkdir(exist_ok=True)
def go(attack, seed, dataset="digits", data_root=None, name=None, model="convnet"):
    name = name or f"{dataset}-{attack}-s{seed}".replace("/", "_")
    path = OUT / f"{name}.pkl"
    if path.exists(): return
    t0 = time.time()
    c = experiment.cell(attack=attack, dataset=dataset, seed=seed, data_root=data_root, model=model, out=f"/work/tmp/tr/out{dataset[:4]}", reserve=.05)
    try:
        scene, models = c.scene, c.models
        before = models.before
        det = experiment.installed().component("defense", "datamodel")
        got = {}
        real = evidence.judge
        def spy(classes, effects, transfers, known, otherwise, images):
            got.update(classes=classes, effects=effects, transfers=transfers, known=known, otherwise=otherwise)
            j = real(classes, effects, transfers, known, otherwise, images); got["judged"] = j
            return j
        evidence.judge = spy
        rs = type(det)._suspects
        def susp(self, residual, groups, tools, handfuls=True):
            r = rs(self, residual, groups, tools, handfuls); got["strongest"] = groups; got["affinities"] = r[0]; got["looked"] = r[1]; return r
        type(det)._suspects = susp
        reff = withheld.effects
        def spye(classes, denied, masks, margins, rivals, *k):
            taken = []
            for groups, own in zip(classes, denied.T):
                row = []
                for place, g in enumerate(groups, 1):
                    w = own == place
                    pred = np.where(margins[w][:, g.group] > 0, g.label, rivals[w][:, g.group])
                    row.append(np.bincount(pred.ravel(), minlength=scene.view.num_classes) / max(1, pred.size))
                taken.append(row)
            got["taken"] = taken
            return reff(classes, denied, masks, margins, rivals, *k)
        withheld.effects = spye
        tv = time.time()
        det.score(scene.view, scene.tools(det, models.victim))
        type(det)._suspects = rs; evidence.judge = real; withheld.effects = reff
    except Exception as e:
        print(name, "FAILED", repr(e)[:300], flush=True); return
    roles = np.asarray(scene.poisoned.roles)
    got.update(roles=roles, images=np.asarray(scene.view.images), labels=np.asarray(scene.view.labels), K=scene.view.num_classes,
        victim=models.victim.arrays(), asr=before.asr if hasattr(before,"asr") else None, targets=scene.targets, attack=attack, dataset=dataset, seed=seed, seconds=time.time()-tv, original=np.asarray(getattr(scene.poisoned,'original_labels',labels_or(scene))))
    pickle.dump(got, open(path, "wb"))
    from sklearn.metrics import roc_auc_score
    p = roles == Role.POISON
    auc = roc_auc_score(p, got["judged"].scores) if 0 < p.sum() < len(p) else float("nan")
    print(f"{name} asr={got['asr']} auc={auc:.3f} p={got['judged'].p_value:.3f} det={time.time()-tv:.0f}s all={time.time()-t0:.0f}s", flush=True)
def labels_or(scene): return np.asarray(scene.view.labels)
if __name__ == "__main__":
    for line in open(sys.argv[1]):
        if line.strip():
            a, s, d, *r = line.split()
            go(a, int(s), d, r[0] if r else None, name=None if len(r)<2 else f"lay{r[1]}-{a}-s{s}")
