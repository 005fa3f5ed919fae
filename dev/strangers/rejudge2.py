"""Old pickles (transfers as numbers) judged by the code as it is, with shares from f4."""
import pickle,glob,sys,numpy as np
from pathlib import Path
from dataclasses import replace
from bdbench_datamodel import evidence
from bdbench_datamodel.transfer import Transfer
from bdbench_datamodel.withheld import Effect
from sklearn.metrics import roc_auc_score
def load(f):
    g=pickle.load(open(f,"rb")); s=pickle.load(open(f.replace("sets4","f4"),"rb")); it=iter(s["rows"]); T=[]; F=[]
    for groups,own in zip(g["classes"],g["effects"]):
        t=[];ef=[]
        for e in own:
            r=next(it); sh=np.full(g["K"],np.nan); sh[r["oth"]]=(r["p"]+r["m"])/2
            t.append(Transfer(sh,r["leave_m"])); tk=r["taken"].astype(float).copy(); tk[r["label"]]=0
            ef.append(Effect(e.lift,e.strength,e.alone,e.agreement,tk))
        T.append(t);F.append(ef)
    g["T"],g["F"]=T,F; return g
def judge(g): return evidence.judge(g["classes"],g["F"],g["T"],g["known"],g["otherwise"],g["images"])
if __name__=="__main__":
    N={}
    for f in sorted(glob.glob(f"/work/tmp/tr/sets4/{sys.argv[1] if len(sys.argv)>1 else '*'}.pkl")):
        if not Path(f.replace("sets4","f4")).exists(): continue
        g=load(f); j=judge(g); o=g["judged"]; P=g["roles"]==1
        auc=lambda q: roc_auc_score(P,q.scores) if P.any() else float("nan")
        fl=lambda q: (q.flagged[P].mean() if P.any() else float("nan"), q.flagged[~P].mean())
        n=Path(f).stem; fam="noise" if "noise" in n else "lay" if n.startswith("lay") else n.split("-")[0][:6]; key=(fam,"clean" if "-none-" in n else "att")
        N.setdefault(key,[]).append((o.p_value<.05,j.p_value<.05,auc(o),auc(j),*fl(o),*fl(j)))
        if abs(auc(o)-auc(j))>.003 or (o.p_value<.05)!=(j.p_value<.05) or abs(fl(o)[0]-fl(j)[0])>.01 or abs(fl(o)[1]-fl(j)[1])>.002:
            print(f"{n[:58]:58s} p {o.p_value:.4f} -> {j.p_value:.4f} auc {auc(o):.3f} -> {auc(j):.3f} tpr/fpr {fl(o)[0]:.2f}/{fl(o)[1]:.3f} -> {fl(j)[0]:.2f}/{fl(j)[1]:.3f}")
    for k,v in sorted(N.items()): print(k,len(v),np.round(np.nanmean(np.array(v,float),0),3).tolist())
