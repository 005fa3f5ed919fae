import pickle, glob, numpy as np
from pathlib import Path
from bdbench_datamodel import evidence
from sklearn.metrics import roc_auc_score
for f in sorted(glob.glob("/work/tmp/tr/sets2/*.pkl")):
    g=pickle.load(open(f,"rb")); fp=Path(f.replace("sets2","f3"))
    if not fp.exists(): continue
    s=pickle.load(open(fp,"rb")); it=iter(s["rows"]); T=[]
    for groups in g["classes"]:
        own=[]
        for _ in groups: r=next(it); own.append(float(np.sqrt((((r["p"]+r["m"])/2)**2).mean())))
        T.append(np.array(own))
    j=evidence.judge(g["classes"],g["effects"],T,g["known"],g["otherwise"],g["images"]); o=g["judged"]; P=g["roles"]==1
    auc=lambda q: roc_auc_score(P,q.scores) if 0<P.sum()<len(P) else float("nan")
    fl=lambda q: (q.flagged[P].mean() if P.any() else float("nan"), q.flagged[~P].mean())
    ev=sorted(j.evidence.items(),key=lambda q:-q[1])[:2]
    print(f"{s['name'][:58]:58s} p {o.p_value:.3f} -> {j.p_value:.4f} {'*' if j.p_value<.05 else ' '} auc {auc(o):.3f} -> {auc(j):.3f} tpr/fpr {fl(o)[0]:.2f}/{fl(o)[1]:.3f} -> {fl(j)[0]:.2f}/{fl(j)[1]:.3f}", [(a,round(b,1)) for a,b in ev])
